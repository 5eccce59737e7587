"""A file of metrics -> its samples as JSON, through the reference parser of OpenMetrics, which is strict."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

with open(sys.argv[1], encoding="utf-8") as file:
    families = list(text_string_to_metric_families(file.read()))
samples = [[s.name, s.labels, s.value] for family in families for s in family.samples]
print(json.dumps({"families": [f.name for f in families], "samples": samples}))
