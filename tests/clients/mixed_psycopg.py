"""psycopg 3: every way it talks. Usage: mixed_psycopg.py ROUNDS; where to, from the PG* environment."""

import sys

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row


def plain(conn, n):
    conn.execute("select 1 -- plain %d" % n)
    conn.execute("select %s::int + %s", (n, 2))
    conn.execute("select %b::int8, %t::text", (n, "täxt ' with \"quotes\""))
    conn.execute("select %s::text", (None,))
    conn.execute("select * from generate_series(1, %s) g", (n % 50,)).fetchall()
    conn.execute("insert into mixed (id, note) values (%s, %s)", (n, "psycopg"), prepare=True)
    conn.execute("update mixed set note = %s where id = %s", ("ünï", n), prepare=True)
    conn.execute("delete from mixed where id = %s returning id, note", (n,), prepare=True).fetchall()
    conn.execute("")
    conn.execute("/* nothing but a comment */")
    conn.execute("begin; select 1 as a; select 2 as b; insert into mixed values (-1, 'multi'); rollback")


def failing(conn, n):
    for statement in [
        "selekt 1",
        "select 1/0",
        "select * from does_not_exist",
        "select 1; select 1/0; select 3",
    ]:
        try:
            conn.execute(statement)
        except psycopg.Error:
            pass
    for statement, values in [
        ("select 1/%s::int", (0,)),
        ("select %s::no_such_type", (1,)),
        ("select %s::int", ("not a number",)),
    ]:
        try:
            conn.execute(statement, values)
        except psycopg.Error:
            pass
    try:
        with conn.transaction():
            conn.execute("select 1/0")
    except psycopg.Error:
        pass


def pipelines(conn, n):
    with conn.pipeline():
        for i in range(50):
            conn.execute("insert into mixed (id, note) values (%s, %s)", (n * 1000 + i, "pipeline"))
        conn.execute("select count(*) from mixed where note = %s", ("pipeline",))
    try:
        with conn.pipeline() as pipeline:
            conn.execute("select 'before', %s::int", (n,))
            conn.execute("select 1/%s::int", (0,))
            conn.execute("select 'skipped', %s::int", (n,))
            pipeline.sync()
            conn.execute("select 'after', %s::int", (n,))
    except psycopg.Error:
        pass
    conn.execute("delete from mixed where note = 'pipeline'")


def copies(conn, n):
    with conn.cursor() as cur:
        with cur.copy("copy mixed (id, note) from stdin") as copy:
            for i in range(500):
                copy.write_row((i, "copied"))
        with cur.copy("copy (select * from mixed where note = 'copied') to stdout") as copy:
            for _ in copy.rows():
                pass
        with cur.copy("copy mixed to stdout (format binary)") as copy:
            for _ in copy:
                pass
        try:
            with cur.copy("copy mixed (id, note) from stdin") as copy:
                copy.write("not a number\tbroken\n")
        except psycopg.Error:
            pass
        try:
            with cur.copy("copy mixed (id, note) from stdin"):
                raise RuntimeError("the client gives up")
        except (RuntimeError, psycopg.Error):
            pass
    conn.execute("delete from mixed where note = 'copied'")


def cursors(conn, n):
    with conn.transaction():
        with conn.cursor(name="portal%d" % n) as cur:
            cur.itersize = 30
            cur.execute("select g, repeat('x', 100) from generate_series(1, 100) g")
            for _ in cur:
                pass
    with conn.transaction():
        conn.execute("declare c cursor for select generate_series(1, 10)")
        conn.execute("fetch 3 from c")
        conn.execute("move 2 from c")
        conn.execute("fetch all from c")
        conn.execute("close c")


def sessions(conn, n):
    conn.execute("set application_name = 'psycopg mixed %d'" % n)
    conn.execute("set search_path = public, pg_catalog")
    conn.execute("set role reader")
    conn.execute("select current_user")
    conn.execute("reset role")
    conn.execute("set session authorization reader")
    conn.execute("select session_user")
    conn.execute("reset session authorization")
    conn.execute("reset application_name")
    conn.execute("prepare p (int) as select $1 + 1")
    conn.execute("execute p(%d)" % n)
    conn.execute("execute p(2)")
    conn.execute("deallocate p")
    conn.execute("listen channel%d" % n)
    conn.execute("notify channel%d, 'hello'" % n)
    conn.execute("unlisten *")
    conn.execute("do $$ begin raise notice 'a notice between'; perform 1; end $$")
    conn.execute("create temporary table t%d as select generate_series(1, 7) as g" % n)
    conn.execute(sql.SQL("drop table {}").format(sql.Identifier("t%d" % n)))
    conn.execute("discard all")


def main():
    for n in range(int(sys.argv[1])):
        with psycopg.connect(autocommit=True, row_factory=tuple_row, application_name="psycopg") as conn:
            for part in (plain, failing, pipelines, copies, cursors, sessions, plain):
                part(conn, n)
        # Not autocommit: BEGIN and COMMIT are the driver's own.
        with psycopg.connect(application_name="psycopg tx", user="writer", dbname="shop") as conn:
            conn.execute("create table if not exists orders (id int, note text)")
            conn.cursor().executemany("insert into orders values (%s, %s)", [(i, "many") for i in range(20)])
            conn.execute("select count(*) from orders")
            conn.execute("truncate orders")


main()
