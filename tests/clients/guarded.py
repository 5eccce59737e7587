"""Mixed statements, one in five forbidden, by psql, by psycopg 3 (plain, prepared, pipelined) or asyncpg.

Usage: guarded.py psql|psycopg|asyncpg TABLE STATEMENTS SEED [dry]; where to, from the PG* environment. Prints what came of
each. `dry` leaves the forbidden ones out and prints what should come of them: both runs must print the same.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile

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
    "\tUPDATE\n{t}\nSET v = 'gone'",
    "delete/**/from/* /* nested */ */{t}",
    "delete from {t} where id = id",
    "delete from {t} where not false",
    "merge into {t} using (select 1) s on true when matched then delete",
    "copy (delete from {t} returning *) to stdout",
    "create table {t}_x as with gone as (delete from {t} returning *) select * from gone",
    "do $$ begin delete from {t}; end $$",
    "do $$ begin execute 'dele' || 'te from {t}'; end $$",
    "do $$ begin perform 1; update {t} set v = 'gone'; end $$ language plpgsql",
    "prepare gone as delete from {t}",
    "begin; delete from {t}; commit",
]


def forbidden(among=tuple(FORBIDDEN)):
    return "/* forbidden */ " + rng.choice(among).replace("{t}", TABLE)


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


def is_refused(error):
    """Over TLS the server itself only knows that the statement is cancelled, if it has not found a fault of its own."""
    hidden = os.environ["PGSSLMODE"] != "disable"
    cancelled = ["canceling statement due to user request", "cannot insert multiple commands into a prepared statement"]
    return any(text in str(error) for text in (cancelled if hidden else ["blocked by policy"]))


# What a Unix socket has to say first is not held: nobody has noticed it yet.
FIRST = "select pg_sleep(1)" if os.environ["PGHOST"].startswith("/") else "select 1"


def say(what):
    print(what, flush=False)


def psycopg_main():
    import psycopg

    conn = psycopg.connect(dbname=os.environ["PGDATABASE"], autocommit=True)
    conn.execute(FIRST)

    def refused(statement, prepare=None):
        if DRY:
            return say("refused")
        try:
            conn.execute(statement, prepare=prepare)
        except psycopg.Error as error:
            return say("refused" if is_refused(error) else f"ERROR {error}")
        say(f"EXECUTED {statement}")

    def run(statement, parameters, rows):
        cursor = conn.execute(statement, parameters or None, prepare=rng.random() < 0.5)
        say((cursor.rowcount, cursor.fetchall() if rows else None))

    done = 0
    while done < COUNT:
        way = rng.randrange(6)
        if way == 4:
            # Prepared by SQL: what is refused is not there.
            conn.execute(f"prepare known as select count(*) from {TABLE}")
            refused(f"/* forbidden */ prepare gone as delete from {TABLE}", False)
            run("execute known", (), True)
            conn.execute("deallocate known")
            done += 4
        elif way == 5:
            # Rows that look like statements, both ways, and a cursor.
            i, cursor = rng.randrange(500), conn.cursor()
            with cursor.copy(f"copy {TABLE} from stdin") as copy:
                for row in range(rng.randrange(20)):
                    copy.write_row((i + row, f"; drop table {TABLE};"))
            say(cursor.rowcount)
            with cursor.copy(f"copy (select id, v from {TABLE} where id = {i} order by v limit 9) to stdout") as copy:
                say(b"".join(map(bytes, copy)))
            with conn.transaction(), conn.cursor("some") as some:
                some.execute(f"select id, v from {TABLE} where id < 50 order by id, v limit 30")
                while rows := some.fetchmany(7):
                    say(rows)
            done += 5
        elif way == 0:
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
                            raise psycopg.errors.InsufficientPrivilege(
                                "blocked by policy, canceling statement due to user request"
                            )
                        conn.execute(statement)
                        say(f"EXECUTED {statement}")
                except psycopg.Error as error:
                    say("refused" if is_refused(error) else f"ERROR {error}")
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
                            say("refused" if is_refused(error) else f"ERROR {error}")
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

    await conn.execute(FIRST)

    async def refused(statement, ask):
        if DRY:
            return say("refused")
        try:
            await ask(statement)
        except asyncpg.PostgresError as error:
            return say("refused" if is_refused(error) else f"ERROR {error}")
        say(f"EXECUTED {statement}")

    for number in range(COUNT):
        if number % 50 == 49:
            await conn.execute(f"prepare known as select count(*) from {TABLE}")
            await refused(f"/* forbidden */ prepare gone as delete from {TABLE}", conn.execute)
            await conn.execute("execute known")
            await conn.execute("deallocate known")
            say(await conn.copy_records_to_table(TABLE, records=[(number, f"drop table {TABLE}")] * 9))
            async with conn.transaction():
                async for row in conn.cursor(f"select id, v from {TABLE} where id = 7 order by v limit 20", prefetch=6):
                    say(tuple(row))
            batch = [(number, "batch")] * 4
            say(await conn.executemany(f"insert into {TABLE} values ($1, $2)", batch))
            continue
        if rng.random() < 0.2:
            await refused(forbidden(), rng.choice([conn.execute, conn.fetch, conn.prepare]))
            continue
        statement, parameters, _ = allowed()
        parts = statement.split("%s")
        numbered = "".join(p + (f"${n}" if n < len(parts) else "") for n, p in enumerate(parts, 1))
        parameters = [p for p in parameters]
        say([tuple(row) for row in await conn.fetch(numbered, *parameters)])
    say([tuple(r) for r in await conn.fetch(f"select count(*), coalesce(sum(id), 0), max(v) from {TABLE}")])


def literal(value):
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def psql_script():
    """What psql is to do. Left out in a dry run: what is refused, which leaves a line in its place."""

    def refuse(statement):
        return "\\echo refused" if DRY else statement + ";"

    # It takes apart what has several statements, unless told otherwise, and leaves out comments.
    single = [text for text in FORBIDDEN if not text.startswith("begin;") and "--" not in text]
    several = ["begin\\; delete from {t}\\; commit", "select 1\\; truncate {t}"]
    yield FIRST + ";"
    done = 0
    while done < COUNT:
        way = rng.randrange(8)
        i = rng.randrange(500)
        if way < 3:
            statement, parameters, _ = allowed()
            yield statement.replace("%s", "{}").format(*map(literal, parameters)) + ";"
            done += 1
        elif way == 3:
            yield refuse(forbidden(single + several))
            done += 1
        elif way == 4:
            yield f"begin;\ninsert into {TABLE} values ({i}, 'kept');\nsavepoint s;"
            yield refuse(forbidden(single))
            yield f"rollback to s;\nselect count(*) from {TABLE};\ncommit;"
            done += 6
        elif way == 5:
            yield f"prepare known as select count(*) from {TABLE};"
            yield refuse(f"/* forbidden */ prepare gone as delete from {TABLE}")
            yield "execute known;\ndeallocate known;"
            done += 4
        elif way == 6:
            yield f"copy {TABLE} from stdin;\n{i}\tdrop table {TABLE};\n{i}\ttwo\n\\."
            yield f"copy (select id, v from {TABLE} where id = {i} order by v limit 9) to stdout;"
            done += 2
        else:
            yield refuse(f"insert into {TABLE} values (1, 'never')\\; {forbidden(single)}\\; select 1")
            done += 1
    yield f"select count(*), coalesce(sum(id), 0), max(v) from {TABLE};"


def psql_main():
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        print(*psql_script(), sep="\n", file=script, flush=True)
        command = ["psql", "-X", "-q", "-A", "-t", "-f", script.name]
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    for line in out.splitlines():
        # What goes with an error: the text, and where in it.
        if " ERROR:  " in line:
            say("refused" if is_refused(line) else line)
        elif not line.startswith(("LINE ", "HINT: ", "QUERY: ", "CONTEXT: ")) and line.strip() != "^":
            say(line)


if DRIVER == "psql":
    psql_main()
elif DRIVER == "psycopg":
    psycopg_main()
else:
    asyncio.run(asyncpg_main())
