"""Asks for the same prepared statement twice, by the protocol: what it is answered is as it lies in the table."""

import psycopg

with psycopg.connect("host=127.0.0.1", autocommit=True) as connection:
    for _ in range(2):
        (email,) = connection.execute("select email from people where id = %s", (1,), prepare=True).fetchone()
        assert email == "ann@example.com", email
