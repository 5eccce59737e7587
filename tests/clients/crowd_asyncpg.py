"""Many asyncpg connections at once, all of the same start. Usage: crowd_asyncpg.py CONNECTIONS STATEMENTS."""

import asyncio
import os
import sys

import asyncpg


async def one(n, statements, everybody):
    conn = await asyncpg.connect(
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        user=os.environ["PGUSER"],
        database=os.environ["PGDATABASE"],
        ssl=os.environ["PGSSLMODE"],
        server_settings={"application_name": "crowd"},
    )
    await everybody.wait()
    for i in range(statements):
        # Alike in length, not in content: a mix-up of connections shows.
        assert await conn.fetchval("select %03d + $1::int" % n, i) == n + i
    await conn.close()


async def main():
    connections, statements = int(sys.argv[1]), int(sys.argv[2])
    everybody = asyncio.Event()
    tasks = [asyncio.create_task(one(n, statements, everybody)) for n in range(connections)]
    await asyncio.sleep(1)
    everybody.set()
    await asyncio.gather(*tasks)


asyncio.run(main())
