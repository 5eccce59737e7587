"""psycopg 3 with TLS from the first byte on: three sessions, a statement each."""

import psycopg

for _ in range(3):
    with psycopg.connect(sslnegotiation="direct", sslmode="require", autocommit=True) as conn:
        conn.execute("select 'direct'")
