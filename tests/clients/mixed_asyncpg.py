"""asyncpg: extended protocol only, named statements, cursors, binary COPY. Usage: mixed_asyncpg.py ROUNDS."""

import asyncio
import os
import sys

import asyncpg


async def round_trip(n):
    conn = await asyncpg.connect(
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        user=os.environ["PGUSER"],
        database=os.environ["PGDATABASE"],
        ssl=os.environ["PGSSLMODE"],
        server_settings={"application_name": "asyncpg"},
    )
    await conn.execute("select 1; select 2 -- simple, two at once")
    await conn.execute("create temporary table t (id int, note text, at timestamptz default now())")
    for i in range(20):
        await conn.fetch("select $1::int + $2::int", i, n)
        await conn.execute("insert into t (id, note) values ($1, $2)", i, "päram %d" % i)
    await conn.executemany("insert into t (id, note) values ($1, $2)", [(i, "many") for i in range(30)])
    await conn.fetch("select * from t where id < $1", 10)
    await conn.fetchrow("select * from t order by id limit 1")
    async with conn.transaction():
        async for _ in conn.cursor("select * from generate_series(1, 100)", prefetch=40):
            pass
        cursor = await conn.cursor("select * from generate_series(1, $1::int)", 25)
        await cursor.fetch(10)
        await cursor.fetch(100)
    await conn.copy_records_to_table("t", records=[(i, "copied", None) for i in range(100)])
    await conn.copy_from_query("select * from t where id = $1", 3, output=os.devnull)
    for broken in ("selekt 1", "select 1/0", "select * from does_not_exist"):
        try:
            await conn.fetch(broken)
        except asyncpg.PostgresError:
            pass
    try:
        await conn.fetch("select 1/$1::int", 0)
    except asyncpg.PostgresError:
        pass
    statement = await conn.prepare("select $1::text || $2::text")
    for i in range(10):
        await statement.fetchval("a", str(i))
    await conn.execute("drop table t")
    await conn.reset()
    await conn.close()


async def main():
    for n in range(int(sys.argv[1])):
        await round_trip(n)


asyncio.run(main())
