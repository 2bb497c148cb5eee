"""ZMTP 3.0 by hand (rfc.zeromq.org/spec/23): what a peer can send that libzmq never would."""

from __future__ import annotations

import socket
import struct


def connect(port: int) -> socket.socket:
    """A TCP connection to a port of this host."""
    link = socket.create_connection(("127.0.0.1", port), 5)
    link.settimeout(5)
    return link


def greeting(mechanism: bytes = b"NULL") -> bytes:
    """The first 64 bytes of a peer."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


def handshake(port: int, kind: bytes) -> socket.socket:
    """A connection after a NULL handshake, as a socket of type `kind`."""
    link = connect(port)
    link.sendall(greeting())
    _read(link, 64)
    body = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    link.sendall(b"\x04" + bytes([len(body)]) + body)
    flags, size = _read(link, 2)
    if flags & 2:
        size = struct.unpack(">Q", bytes([size]) + _read(link, 7))[0]
    _read(link, size)
    return link


def part(data: bytes, *, more: bool = False) -> bytes:
    """One part of a message."""
    if len(data) < 256:
        return bytes([more, len(data)]) + data
    return bytes([more | 2]) + struct.pack(">Q", len(data)) + data


def unfinished_command(size: int) -> bytes:
    """The head of a command of `size` bytes."""
    return b"\x06" + struct.pack(">Q", size) + b"\x05HELLO"


def is_cut(link: socket.socket) -> bool:
    """Whether the other side ends the connection within seconds; what it sends is thrown away."""
    try:
        while link.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def _read(link: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = link.recv(count - len(found))
        if not piece:
            raise EOFError("the connection was closed")
        found += piece
    return found
