"""TCP ports that stay ours until the process of the tests ends."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """A port of this host that nobody else is given: neither a test beside us nor a connection.

    It stays bound, without listening. Linux lets a server that sets SO_REUSEADDR, as all of ours
    do, listen there all the same; until then connections are refused.
    """
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", 0))
    _held.append(one)
    return int(one.getsockname()[1])
