"""One connection, three owners: it is made here, used by a forked child, then passed to a stranger over a Unix socket.
Prints three process ids: maker, child, stranger. Usage: passing.py; where to, from the PG* environment."""

import os
import socket
import struct

from messages import query, startup


def ask(conn, text):
    conn.sendall(query(text))
    until_ready(conn)


def until_ready(conn):
    while True:
        head = conn.recv(5, socket.MSG_WAITALL)
        conn.recv(struct.unpack("!I", head[1:])[0] - 4, socket.MSG_WAITALL)
        if head[:1] == b"Z":
            return


def main():
    # The stranger is there before the connection is: it cannot have inherited it.
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    stranger = os.fork()
    if stranger == 0:
        ours.close()
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        ask(socket.socket(fileno=fds[0]), "select 'the stranger'")
        os._exit(0)
    conn = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])))
    conn.sendall(startup(user="postgres", database="postgres"))
    until_ready(conn)
    ask(conn, "select 'the maker'")
    child = os.fork()
    if child == 0:
        ask(conn, "select 'the child'")
        os._exit(0)
    os.waitpid(child, 0)
    socket.send_fds(ours, [b"x"], [conn.fileno()])
    conn.close()
    os.waitpid(stranger, 0)
    print(os.getpid(), child, stranger)


main()
