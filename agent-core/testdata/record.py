#!/usr/bin/env python3
"""Records what passes between a client and a PostgreSQL server as a test script (see agent-core/src/testing.rs).

    record.py LISTEN_PORT SERVER_PORT OUT.wire [COMMENT]

Takes one connection at a time; every further one goes to OUT.2.wire and so on. Stops at SIGTERM.
"""
import selectors, socket, sys, time

def escape(data):
    out = []
    for byte in data:
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        elif 32 <= byte < 127:
            out.append(char)
        else:
            out.append({0: "\\0", 10: "\\n", 13: "\\r", 9: "\\t"}.get(byte) or f"\\x{byte:02x}")
    text = "".join(out)
    return '"' + text + '"'

class Direction:
    """Writes whole messages by type where a chunk is made of them, else raw bytes."""
    def __init__(self, client):
        self.client, self.untyped = client, client
        self.rest = 0

    def format(self, data):
        if data in (b"N", b"S") and not self.client:
            return escape(data)
        parts, at, untyped = [], 0, self.untyped
        if self.rest:
            self.rest = max(0, self.rest - len(data)) if self.rest >= len(data) else -1
            return escape(data)
        while at < len(data):
            own = 4 if untyped else 5
            if at + own > len(data):
                return self.raw(data)
            length = int.from_bytes(data[at + own - 4:at + own], "big")
            end = at + own - 4 + length
            if length < 4 or end > len(data):
                return self.raw(data)
            body = data[at + own:end]
            kind = "U" if untyped else chr(data[at])
            parts.append(f"{kind} {escape(body)}")
            if untyped and body[:2] == b"\0\3":
                untyped = False
            at = end
        self.untyped = untyped
        return " ".join(parts)

    def raw(self, data):
        return escape(data)

def main():
    listen, server, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    comment = sys.argv[4] if len(sys.argv) > 4 else "Recorded."
    listener = socket.create_server(("127.0.0.1", listen))
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, None)
    count = 0
    while True:
        for key, _ in selector.select():
            if key.data is None:
                client, _ = listener.accept()
                upstream = socket.create_connection(("127.0.0.1", server))
                count += 1
                name = path if count == 1 else path.replace(".wire", f".{count}.wire")
                log = open(name, "w")
                log.write(f"# {comment}\n")
                start = time.monotonic()
                for a, b, mark in ((client, upstream, ">"), (upstream, client, "<")):
                    a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(a, selectors.EVENT_READ, (b, mark, Direction(mark == ">"), log, start))
                continue
            peer, mark, direction, log, start = key.data
            data = key.fileobj.recv(1 << 16)
            if not data:
                selector.unregister(key.fileobj)
                try:
                    peer.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                continue
            micros = int((time.monotonic() - start) * 1e6)
            log.write(f"{mark} {micros} {direction.format(data)}\n")
            log.flush()
            peer.sendall(data)

main()
