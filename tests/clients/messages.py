"""PostgreSQL's messages, for the clients that are no driver's."""

import struct


def message(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


def query(text):
    return message(b"Q", text.encode() + b"\0")


def startup(**parameters):
    """Protocol 3.0; `user`, `database`, settings."""
    words = "".join(f"{name}\0{value}\0" for name, value in parameters.items())
    return message(b"", struct.pack("!I", 3 << 16) + words.encode() + b"\0")
