"""One asyncpg connection: a statement for each line of input, a line for its one value."""

import asyncio
import os
import sys

import asyncpg


async def main():
    conn = await asyncpg.connect(
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        user=os.environ["PGUSER"],
        database=os.environ["PGDATABASE"],
        ssl=os.environ["PGSSLMODE"],
    )
    for line in iter(sys.stdin.readline, ""):
        print(await conn.fetchval(line.strip().rstrip(";")), flush=True)


asyncio.run(main())
