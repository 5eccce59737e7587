"""asyncpg behind a relay that masks: named statements, binary, cursors, binary COPY; each value as it is decoded."""

import asyncio
import datetime
import io
import ipaddress
import os
import uuid
from decimal import Decimal

import asyncpg

UTC = datetime.timezone.utc
EMPTY = asyncpg.Range(empty=True)
MASKED = {
    "c_text": "*" * 12, "c_varchar": "*" * 11, "c_bpchar": "*" * 8, "c_name": "*" * 7, "c_domain": "*" * 9,
    "c_char": b"*", "c_bool": False, "c_int2": 0, "c_int4": 0, "c_int8": 0, "c_float4": 0.0, "c_float8": 0.0,
    "c_numeric": Decimal(0), "c_oid": 0, "c_bytea": b"\0" * 6, "c_uuid": uuid.UUID(int=0), "c_json": "{}",
    "c_jsonb": "[]", "c_xml": "<masked/>", "c_money": "$0.00",
    "c_date": datetime.date(2000, 1, 1), "c_time": datetime.time(), "c_timetz": datetime.time(tzinfo=UTC),
    "c_timestamp": datetime.datetime(2000, 1, 1), "c_timestamptz": datetime.datetime(2000, 1, 1, tzinfo=UTC),
    "c_interval": datetime.timedelta(), "c_inet": ipaddress.ip_address("0.0.0.0"),
    "c_cidr": ipaddress.ip_network("0.0.0.0/0"), "c_macaddr": "00:00:00:00:00:00",
    "c_bit": asyncpg.BitString("000000000"), "c_varbit": asyncpg.BitString("0000"), "c_point": asyncpg.Point(0, 0),
    "c_lseg": asyncpg.LineSegment((0, 0), (0, 0)), "c_box": asyncpg.Box((0, 0), (0, 0)),
    "c_circle": asyncpg.Circle((0, 0), 0), "c_line": asyncpg.Line(1, 0, 0), "c_path": asyncpg.Path((0, 0), is_closed=True),
    "c_polygon": asyncpg.Polygon((0, 0)), "c_int4range": EMPTY, "c_numrange": EMPTY, "c_tsrange": EMPTY,
    "c_tstzrange": EMPTY, "c_daterange": EMPTY, "c_int8range": EMPTY, "c_int4multirange": [],
    "c_tid": (0, 0), "c_texts": ["*" * 6, None, "*" * 4], "c_matrix": [[0, 0], [0, None]],
    "c_numerics": [Decimal(0)], "c_dates": [datetime.date(2000, 1, 1)] * 2, "c_uuids": [uuid.UUID(int=0)],
    "c_jsonbs": ["{}", '"****"'], "c_ranges": [EMPTY], "c_mood": None, "c_pair": None,
}


def same(row, where):
    assert (row["id"], row["plain"]) == (1, "seen by all"), (where, row)
    checked = 0
    for name, value in row.items():
        if name in MASKED:
            assert value == MASKED[name], (where, name, value)
            checked += 1
    return checked


async def main():
    conn = await asyncpg.connect(
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        user=os.environ["PGUSER"],
        database=os.environ["PGDATABASE"],
        ssl=os.environ["PGSSLMODE"],
    )
    checked = 0
    for _ in range(3):
        rows = await conn.fetch("select * from typed order by id")
        checked += same(rows[0], "fetch")
        assert all(value is None for value in list(rows[1])[2:]), rows[1]
    statement = await conn.prepare("select * from typed where id = $1")
    for _ in range(3):
        checked += same(await statement.fetchrow(1), "prepared")
    async with conn.transaction():
        async for row in conn.cursor("select * from typed where id = 1 union all select * from typed where id = 1", prefetch=1):
            # Behind a set operation with a star every column may hold anything.
            assert row["plain"] == "*" * 11, row["plain"]
        cursor = await conn.cursor("select * from typed order by id")
        checked += same((await cursor.fetch(1))[0], "cursor")
        assert len(await cursor.fetch(5)) == 1
    out = io.BytesIO()
    await conn.copy_from_table("typed", columns=["id", "plain", "c_text"], output=out, format="binary")
    assert b"seen by all" in out.getvalue() and out.getvalue().endswith(b"\xff\xff")
    try:
        await conn.fetch("select c_text::int from typed where id = 1")
    except asyncpg.DataError as error:
        assert "*" in str(error), error
        checked += 1
    await conn.close()
    print("checked", checked)


asyncio.run(main())
