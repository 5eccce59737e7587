"""psycopg 3 behind a relay that masks: text and binary, cursors, COPY; each value as the library decodes it."""

import datetime
import ipaddress
import sys
import uuid
from decimal import Decimal

import psycopg
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

UTC = datetime.timezone.utc
MASKED = {
    "c_text": "*" * 12, "c_varchar": "*" * 11, "c_bpchar": "*" * 8, "c_name": "*" * 7, "c_domain": "*" * 9,
    "c_bool": False, "c_int2": 0, "c_int4": 0, "c_int8": 0, "c_float4": 0.0, "c_float8": 0.0,
    "c_numeric": Decimal(0), "c_oid": 0, "c_bytea": b"\0" * 6, "c_uuid": uuid.UUID(int=0),
    "c_json": {}, "c_jsonb": [], "c_date": datetime.date(2000, 1, 1), "c_time": datetime.time(),
    "c_timetz": datetime.time(tzinfo=UTC), "c_timestamp": datetime.datetime(2000, 1, 1),
    "c_timestamptz": datetime.datetime(2000, 1, 1, tzinfo=UTC), "c_interval": datetime.timedelta(),
    "c_inet": ipaddress.ip_address("0.0.0.0"), "c_cidr": ipaddress.ip_network("0.0.0.0/0"),
    "c_int4range": Range(empty=True), "c_daterange": Range(empty=True), "c_int4multirange": Multirange(),
    "c_texts": ["*" * 6, None, "*" * 4], "c_matrix": [[0, 0], [0, None]], "c_numerics": [Decimal(0)],
    "c_dates": [datetime.date(2000, 1, 1)] * 2, "c_uuids": [uuid.UUID(int=0)], "c_jsonbs": [{}, "****"],
    "c_ranges": [Range(empty=True)], "c_mood": None, "c_pair": None,
}


def same(row, names, where):
    row = dict(zip(names, row))
    assert (row["id"], row["plain"]) == (1, "seen by all"), (where, row)
    for name in names:
        if name in MASKED:
            assert row[name] == MASKED[name], (where, name, row[name])
    return sum(name in MASKED for name in names)


def main():
    checked = 0
    with psycopg.connect(autocommit=True) as conn:
        conn.execute("set timezone to 'UTC'")
        for binary in (False, True):
            with conn.cursor(binary=binary) as cur:
                for statement, values in [("select * from typed order by id", None), ("select * from typed where id >= %s order by id", (1,))]:
                    for _ in range(7):  # prepared from the sixth on
                        cur.execute(statement, values)
                        rows = cur.fetchall()
                        names = [column.name for column in cur.description]
                        checked += same(rows[0], names, (binary, statement))
                        assert all(value is None for value in rows[1][2:]), rows[1]
            with conn.transaction(), conn.cursor("named", binary=binary) as cur:
                cur.itersize = 1
                cur.execute("select * from typed order by id")
                rows = list(cur)
                checked += same(rows[0], [column.name for column in cur.description], ("cursor", binary))
        with conn.pipeline():
            cursors = [conn.execute("select id, plain, c_text, c_int4 from typed order by id") for _ in range(5)]
        for cur in cursors:
            checked += same(cur.fetchone(), ["id", "plain", "c_text", "c_int4"], "pipeline")

        # What is hidden is masked all the same.
        for statement, value in [
            ("select substr(c_text, 1, 4) as x from typed where id = 1", "****"),
            ("select x from (select c_text || '' as x from typed where id = 1) s", "*" * 12),
            ("with w as (select c_int8 as plain from typed where id = 1) select plain from w", 0),
            ("select plain from typed where id = 9 union select c_text from typed where id = 1", "*" * 12),
            ("select row_to_json(typed) from typed where id = 1", {}),
            ("select array_agg(c_text) from typed where id = 1", ["*" * 12]),
            ("select json_build_object('a', c_text) from typed where id = 1", {}),
            ("select count(c_text) from typed", 1),
            ("select upper(plain) from typed where id = 1", "SEEN BY ALL"),
        ]:
            told = conn.execute(statement).fetchone()[0]
            assert told == value, (statement, told)
            checked += 1

        # COPY tells no types: digits stay digits, and so on; in binary it is NULL.
        columns = ["id", "plain", "c_int4", "c_numeric", "c_date", "c_bool", "c_uuid", "c_bytea", "c_text"]
        types = ["int4", "text", "int4", "numeric", "date", "bool", "uuid", "bytea", "text"]
        for source in ("typed (%s)" % ", ".join(columns), "(select %s from typed order by id)" % ", ".join(columns)):
            with conn.cursor().copy("copy %s to stdout" % source) as copy:
                copy.set_types(types)
                checked += same(next(copy.rows()), columns, "copy text")
                list(copy.rows())
            with conn.cursor().copy("copy %s to stdout (format binary)" % source) as copy:
                copy.set_types(types)
                rows = list(copy.rows())
                assert rows[0] == (1, "seen by all") + (None,) * 7, rows
                checked += 7
        with conn.cursor().copy("copy typed to stdout (format csv, header)") as copy:
            lines = b"".join(copy).decode().splitlines()
            names = lines[0].split(",")
            assert lines[1].startswith("1,seen by all,************,"), lines[1]
            assert lines[2] == "2,nothing" + "," * (len(names) - 2), lines[2]

        # An error that quotes a value.
        try:
            conn.execute("select c_text::int from typed where id = 1")
        except psycopg.DataError as error:
            assert 'type integer: "**-****-****"' in str(error), error
            assert error.sqlstate == "22P02"
            checked += 1
    print("checked", checked)


main()
sys.stdout.flush()
