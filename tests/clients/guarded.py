"""Mixed statements, one in five forbidden, by psycopg 3 (plain, prepared, pipelined) or asyncpg.

Usage: guarded.py psycopg|asyncpg TABLE STATEMENTS SEED [dry]; where to, from the PG* environment. Prints what came of
each. `dry` leaves the forbidden ones out and prints what should come of them: both runs must print the same.
"""

import asyncio
import os
import random
import sys

DRIVER, TABLE, COUNT, SEED = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
DRY = sys.argv[5:] == ["dry"]
rng = random.Random(SEED)

FORBIDDEN = [
    "drop table {t}",
    "truncate {t}",
    "delete from {t}",
    "update {t} set v = 'gone'",
    "delete from {t} where 1 = 1",
    "update {t} set v = 'gone' where true or id = 1",
    "with gone as (delete from {t} returning *) select count(*) from gone",
    "/* harmless */ DeLeTe /* really */ FROM {t} -- where id = 1",
    "explain analyze delete from {t}",
    "TRUNCATE ONLY {t} RESTART IDENTITY",
    "drop table if exists {t} cascade",
]


def forbidden():
    return "/* forbidden */ " + rng.choice(FORBIDDEN).format(t=TABLE)


def allowed():
    """A statement, its parameters, whether it gives rows."""
    i, kind = rng.randrange(500), rng.randrange(7)
    if kind == 0:
        return f"insert into {TABLE} (id, v) values (%s, %s)", (i, "v" * rng.randrange(60)), False
    if kind == 1:
        return f"insert into {TABLE} (id, v) values ({i}, 'literal {i} delete from') returning id, v", (), True
    if kind == 2:
        return f"select count(*), coalesce(sum(id), 0) from {TABLE} where id < %s", (i,), True
    if kind == 3:
        return f"select id, v from {TABLE} where id = {i} order by v limit 5", (), True
    if kind == 4:
        return f"update {TABLE} set v = %s where id = %s", ("new", i), False
    if kind == 5:
        return f"delete from {TABLE} where id = {i}", (), False
    return f"select 'drop table {TABLE}; it''s {i}' as harmless, id from {TABLE} where id = {i} limit 1", (), True


def say(what):
    print(what, flush=False)


def psycopg_main():
    import psycopg

    conn = psycopg.connect(dbname=os.environ["PGDATABASE"], autocommit=True)

    def refused(statement, prepare=None):
        if DRY:
            return say("refused")
        try:
            conn.execute(statement, prepare=prepare)
        except psycopg.Error as error:
            return say("refused" if "blocked by policy" in str(error) else f"ERROR {error}")
        say(f"EXECUTED {statement}")

    def run(statement, parameters, rows):
        cursor = conn.execute(statement, parameters or None, prepare=rng.random() < 0.5)
        say((cursor.rowcount, cursor.fetchall() if rows else None))

    done = 0
    while done < COUNT:
        way = rng.randrange(4)
        if way == 0:
            if rng.random() < 0.2:
                refused(forbidden(), rng.choice([None, True, False]))
            else:
                run(*allowed())
            done += 1
        elif way == 1:
            # In a transaction: what is refused fails it, and a savepoint brings it back.
            with conn.transaction():
                run(*allowed())
                statement = forbidden()
                try:
                    with conn.transaction():
                        if DRY:
                            raise psycopg.errors.InsufficientPrivilege("blocked by policy")
                        conn.execute(statement)
                        say(f"EXECUTED {statement}")
                except psycopg.Error as error:
                    say("refused" if "blocked by policy" in str(error) else f"ERROR {error}")
                run(*allowed())
            done += 3
        elif way == 2:
            # A pipeline: what stands before the refused one and its Sync is done, what comes after is done.
            group = [[allowed() for _ in range(rng.randrange(1, 6))] for _ in range(2)]
            statement = forbidden()
            with conn.pipeline() as pipeline:
                for number, part in enumerate(group):
                    cursors = [(conn.execute(s, p or None), rows) for s, p, rows in part]
                    pipeline.sync()
                    for cursor, rows in cursors:
                        say((cursor.rowcount, cursor.fetchall() if rows else None))
                    if number == 0 and DRY:
                        say("refused")
                    elif number == 0:
                        try:
                            conn.execute(statement)
                            pipeline.sync()
                            say(f"EXECUTED {statement}")
                        except psycopg.Error as error:
                            say("refused" if "blocked by policy" in str(error) else f"ERROR {error}")
            done += sum(map(len, group)) + 1
        else:
            # Several statements in one message: none of them is done.
            statement = f"insert into {TABLE} values (1, 'never'); {forbidden()}; select 1"
            refused(statement)
            done += 1
    say(conn.execute(f"select count(*), coalesce(sum(id), 0), max(v) from {TABLE}").fetchall())


async def asyncpg_main():
    import asyncpg

    conn = await asyncpg.connect(
        user=os.environ["PGUSER"],
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        database=os.environ["PGDATABASE"],
        ssl=False if os.environ["PGSSLMODE"] == "disable" else "require",
    )

    async def refused(statement, ask):
        if DRY:
            return say("refused")
        try:
            await ask(statement)
        except asyncpg.PostgresError as error:
            return say("refused" if "blocked by policy" in str(error) else f"ERROR {error}")
        say(f"EXECUTED {statement}")

    for _ in range(COUNT):
        if rng.random() < 0.2:
            await refused(forbidden(), rng.choice([conn.execute, conn.fetch, conn.prepare]))
            continue
        statement, parameters, _ = allowed()
        parts = statement.split("%s")
        numbered = "".join(p + (f"${n}" if n < len(parts) else "") for n, p in enumerate(parts, 1))
        parameters = [p for p in parameters]
        say([tuple(row) for row in await conn.fetch(numbered, *parameters)])
    say([tuple(r) for r in await conn.fetch(f"select count(*), coalesce(sum(id), 0), max(v) from {TABLE}")])


psycopg_main() if DRIVER == "psycopg" else asyncio.run(asyncpg_main())
