"""So many clients that hang up at once, and the end of whose stream comes before what they asked."""

import os
import socket
import sys

from messages import query, startup

# Classes of the namespace's queue: see `NetNs::two_speeds`.
FAST, SLOW = 0x10010, 0x10020


def connect():
    client = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])))
    client.sendall(startup(user=os.environ["PGUSER"], database=os.environ["PGDATABASE"]))
    until_ready(client)
    return client


def until_ready(client):
    said = b""
    while not said.endswith(b"Z\0\0\0\5I"):
        more = client.recv(65536)
        if not more:
            raise EOFError(said)
        said += more


kept = []
for number in range(int(sys.argv[1])):
    client = connect()
    # The first one uses up what may be sent at once: the second one waits.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, SLOW)
    client.sendall(query(f"select length('{'x' * 1000}')"))
    until_ready(client)
    client.sendall(query(f"insert into parted /* {'y' * number} \\ */ values ({number})"))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, FAST)
    if number % 2:
        client.shutdown(socket.SHUT_WR)
        kept.append(client)
    else:
        client.close()
