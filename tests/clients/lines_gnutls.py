"""One connection over GnuTLS, which no PostgreSQL driver uses: a statement for each line of input, a line for its value."""

import ctypes
import os
import socket
import struct
import sys

from messages import query, startup

LIBRARY = ctypes.CDLL("libgnutls.so.30")
CLIENT, CREDENTIALS = 1 << 1, 1
AGAIN, INTERRUPTED = -28, -52


def checked(result):
    """What the library says, unless it is that something is wrong."""
    if result < 0:
        raise OSError(ctypes.string_at(LIBRARY.gnutls_strerror(result)).decode())
    return result


class Connection:
    """A session that sends messages and reads them."""

    def __init__(self, plain):
        self.plain = plain
        LIBRARY.gnutls_strerror.restype = ctypes.c_void_p
        LIBRARY.gnutls_record_send.restype = ctypes.c_ssize_t
        LIBRARY.gnutls_record_recv.restype = ctypes.c_ssize_t
        self.session, self.trust = ctypes.c_void_p(), ctypes.c_void_p()
        checked(LIBRARY.gnutls_init(ctypes.byref(self.session), CLIENT))
        checked(LIBRARY.gnutls_set_default_priority(self.session))
        checked(LIBRARY.gnutls_certificate_allocate_credentials(ctypes.byref(self.trust)))
        checked(LIBRARY.gnutls_credentials_set(self.session, CREDENTIALS, self.trust))
        LIBRARY.gnutls_transport_set_int2(self.session, plain.fileno(), plain.fileno())
        while (said := LIBRARY.gnutls_handshake(self.session)) in (AGAIN, INTERRUPTED):
            pass
        checked(said)

    def send(self, data):
        while data:
            sent = LIBRARY.gnutls_record_send(self.session, data, ctypes.c_size_t(len(data)))
            if sent not in (AGAIN, INTERRUPTED):
                data = data[checked(sent) :]

    def exactly(self, count):
        data = b""
        while len(data) < count:
            room = ctypes.create_string_buffer(count - len(data))
            got = LIBRARY.gnutls_record_recv(self.session, room, ctypes.c_size_t(len(room)))
            if got == 0:
                raise EOFError("the connection has ended")
            if got not in (AGAIN, INTERRUPTED):
                data += room.raw[: checked(got)]
        return data

    def message(self):
        kind, length = struct.unpack("!cI", self.exactly(5))
        return kind, self.exactly(length - 4)

    def until_ready(self):
        """The first value of the answer."""
        value = ""
        while True:
            kind, body = self.message()
            if kind == b"Z":
                return value
            if kind == b"E":
                raise OSError(body.decode())
            if kind == b"D":
                (length,) = struct.unpack_from("!i", body, 2)
                value = body[6 : 6 + max(length, 0)].decode()


def main():
    plain = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])))
    plain.sendall(struct.pack("!II", 8, 80877103))
    if plain.recv(1) != b"S":
        raise OSError("the server has no TLS")
    connection = Connection(plain)
    connection.send(startup(user=os.environ["PGUSER"], database=os.environ["PGDATABASE"]))
    connection.until_ready()
    for line in iter(sys.stdin.readline, ""):
        connection.send(query(line.strip().rstrip(";")))
        print(connection.until_ready(), flush=True)


main()
