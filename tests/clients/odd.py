"""One session that sends each statement by another system call. Usage: odd.py; where to, from the PG* environment
(a path: the Unix socket). Prints the name of each way that worked; each sends `select 'NAME'`, then `select 'after NAME'`."""

import ctypes
import mmap
import os
import socket
import struct
import tempfile

from messages import query, startup

STARTUP = startup(user="postgres", database="postgres", application_name="odd")
LIBC = ctypes.CDLL(None, use_errno=True)
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
TCPI_OPT_SYN_DATA = 32


def exactly(conn, length):
    data = b""
    while len(data) < length:
        # Looked at, then taken: only the second is a receive.
        conn.recv(length - len(data), socket.MSG_PEEK)
        data += conn.recv(length - len(data))
    return data


def until_ready(conn):
    while True:
        head = exactly(conn, 5)
        length = struct.unpack("!I", head[1:])[0] - 4
        if length:
            exactly(conn, length)
        if head[:1] == b"Z":
            return


def by_sendmsg(conn, data):
    # One byte each; a call takes at most 1024 of them.
    while data:
        data = data[conn.sendmsg([data[n : n + 1] for n in range(min(len(data), 1024))]) :]


def by_zerocopy(conn, data):
    conn.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    assert conn.send(data, MSG_ZEROCOPY) == len(data)


def by_splice(conn, data):
    read, write = os.pipe()
    os.write(write, data)
    assert os.splice(read, conn.fileno(), len(data)) == len(data)


def by_sendfile(conn, data):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert os.sendfile(conn.fileno(), file.fileno(), 0, len(data)) == len(data)


def by_sendmmsg(conn, data):
    class Iovec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]

    class Header(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_void_p),
            ("name_length", ctypes.c_uint32),
            ("vectors", ctypes.POINTER(Iovec)),
            ("count", ctypes.c_size_t),
            ("control", ctypes.c_void_p),
            ("control_length", ctypes.c_size_t),
            ("flags", ctypes.c_int64),
            ("sent", ctypes.c_uint64),
        ]

    half = len(data) // 2
    vectors = [Iovec(data[:half], half), Iovec(data[half:], len(data) - half)]
    headers = (Header * 2)(*[Header(vectors=ctypes.pointer(vector), count=1) for vector in vectors])
    assert LIBC.sendmmsg(conn.fileno(), headers, 2, 0) == 2


def by_io_uring(conn, data):
    """One IORING_OP_SEND through a ring of its own; see io_uring_setup(2)."""
    parameters = bytearray(120)
    raw = (ctypes.c_char * 120).from_buffer(parameters)
    ring = LIBC.syscall(425, 4, raw)
    assert ring >= 0, os.strerror(ctypes.get_errno())
    sq_entries = struct.unpack_from("<I", parameters, 0)[0]
    tail_at, array_at = struct.unpack_from("<I", parameters, 44)[0], struct.unpack_from("<I", parameters, 64)[0]
    queue = mmap.mmap(ring, array_at + 4 * sq_entries, offset=0)
    entries = mmap.mmap(ring, 64 * sq_entries, offset=0x10000000)
    buffer = ctypes.create_string_buffer(data, len(data))
    send = struct.pack("<BBHiQQII", 26, 0, 0, conn.fileno(), 0, ctypes.addressof(buffer), len(data), 0)
    entries[0 : len(send)] = send
    queue[array_at : array_at + 4] = struct.pack("<I", 0)
    queue[tail_at : tail_at + 4] = struct.pack("<I", 1)
    assert LIBC.syscall(426, ring, 1, 1, 1, None, 0) == 1
    os.close(ring)


WAYS = {
    "send": lambda conn, data: conn.sendall(data),
    "write": lambda conn, data: os.write(conn.fileno(), data),
    "writev": lambda conn, data: os.writev(conn.fileno(), [data[:7], data[7:], b""]),
    "sendmsg": by_sendmsg,
    "zerocopy": by_zerocopy,
    "splice": by_splice,
    "sendfile": by_sendfile,
    "sendmmsg": by_sendmmsg,
    "io_uring": by_io_uring,
}


def connect():
    host, port = os.environ["PGHOST"], int(os.environ["PGPORT"])
    if host.startswith("/"):
        conn = socket.socket(socket.AF_UNIX)
        conn.connect(f"{host}/.s.PGSQL.{port}")
        return conn
    return socket.create_connection((host, port))


def fast_open():
    """The startup message goes out with the SYN, where the server allows it; else as usual."""
    conn = socket.socket()
    conn.sendto(STARTUP, socket.MSG_FASTOPEN, (os.environ["PGHOST"], int(os.environ["PGPORT"])))
    until_ready(conn)
    conn.sendall(query("select 'fast open'"))
    until_ready(conn)
    in_syn = conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & TCPI_OPT_SYN_DATA
    print("fast open in the syn" if in_syn else "fast open")


def main():
    conn = connect()
    conn.sendall(STARTUP)
    until_ready(conn)
    for name, way in WAYS.items():
        filler = "x" * 3000
        try:
            way(conn, query(f"select '{name}', '{filler}'"))
        except OSError:
            continue  # not here: the kernel or the socket refuses it, and nothing was sent
        until_ready(conn)
        conn.sendall(query(f"select 'after {name}'"))
        until_ready(conn)
        print(name)
    if not os.environ["PGHOST"].startswith("/"):
        fast_open()


main()
