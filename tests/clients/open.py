"""Connections that stay open, by psycopg (one, with a statement that is prepared by name) or asyncpg (a pool of three).

Usage: open.py psycopg|asyncpg; where to, from the PG* environment. Says `open`, then answers each line of input with one:
the statement's value, `done` where it has none, or the error. `prepared` executes what was prepared at the beginning.
"""

import asyncio
import os
import sys

PREPARED = "select 'prepared ' || 1"


def said(answer):
    print(str(answer).replace("\n", " "), flush=True)


def psycopg_main():
    import psycopg

    conn = psycopg.connect(dbname=os.environ["PGDATABASE"], autocommit=True)
    conn.execute(PREPARED, prepare=True)
    said("open")
    for line in iter(sys.stdin.readline, ""):
        line = line.strip().rstrip(";")
        try:
            cursor = conn.execute(PREPARED if line == "prepared" else line, prepare=line == "prepared")
            said(cursor.fetchone()[0] if cursor.description else "done")
        except psycopg.Error as error:
            said(error)


async def asyncpg_main():
    import asyncpg

    pool = await asyncpg.create_pool(
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        user=os.environ["PGUSER"],
        database=os.environ["PGDATABASE"],
        ssl=os.environ["PGSSLMODE"],
        min_size=3,
        max_size=3,
    )
    connections = [await pool.acquire() for _ in range(3)]
    prepared = [await conn.prepare(PREPARED) for conn in connections]
    said("open")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        line = line.strip().rstrip(";")

        async def one(number):
            try:
                if line == "prepared":
                    return str(await prepared[number].fetchval())
                answer = await connections[number].fetchval(line)
                return "done" if answer is None else str(answer)
            except asyncpg.PostgresError as error:
                return str(error)

        answers = await asyncio.gather(*(one(number) for number in range(3)))
        # They are to agree but for the reference of a refusal.
        said(" | ".join(answers))


if sys.argv[1] == "psycopg":
    psycopg_main()
else:
    asyncio.run(asyncpg_main())
