"""Which operations a role may call. The allow-list maps keys to roles (`ureca.security.keys`); the
authenticator admits connections (`ureca.security.authenticator`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from ureca.errors import RequestError
from ureca.node.config import SecurityConfig
from ureca.protocol.operations import OPERATIONS
from ureca.security.authenticator import CurveAuthenticator, Plane
from ureca.security.keys import ClientKeys, Role, ServerKeys, read_pair, read_public

Guard = Callable[[zmq.Socket[Any], str, Plane], None]
"""Called before a socket binds to an address."""
MayAsk = Callable[[str], None]
"""Raises `RequestError` for an operation that the client's role does not cover."""

_OBSERVE = frozenset(name for name, op in OPERATIONS.items() if op.role == "observe")
_REQUEST = _OBSERVE | {name for name, op in OPERATIONS.items() if op.role == "request"}
_COVERED: dict[Role, frozenset[str]] = {
    "camera": frozenset(),
    "observe": _OBSERVE,
    "request": _REQUEST,
}


def open_gate(context: zmq.Context[Any], config: SecurityConfig) -> CurveAuthenticator | None:
    """Open the authenticator of the configuration; `ConfigError` if its files cannot be used."""
    if not config.key:
        return None
    return CurveAuthenticator(context, ServerKeys.read(config.key, config.allow))


def camera_keys(config: SecurityConfig) -> ClientKeys | None:
    """The keys for the connection to a camera; None without keys."""
    if not config.camera:
        return None
    return ClientKeys(read_pair(Path(config.key)), read_public(Path(config.camera)))


def check(op: str, role: Role | None) -> None:
    """Raises `RequestError`: `FORBIDDEN` beyond the role, `UNAUTHENTICATED` without one.

    `OPERATIONS` has the least role of each. What is not in it is the `admin`'s.
    """
    if role is None:
        raise RequestError(
            "this key is not on the node's allow-list (any more)", code="UNAUTHENTICATED"
        )
    if role != "admin" and op not in _COVERED[role]:
        raise RequestError(
            f"{op!r} is beyond the role {role!r} of this key; ask the node's owner for: "
            f"ureca keys allow FILE.key --role {'request' if op in _REQUEST else 'admin'}",
            code="FORBIDDEN",
        )


def anybody(op: str) -> None:
    """Without an authenticator every client may call all operations."""


def allow_unencrypted(socket: zmq.Socket[Any], address: str, plane: Plane) -> None:
    """The `Guard` of a node without keys: loopback and ipc only (`ureca.node.config`)."""


def asker_of(gate: CurveAuthenticator, message: zmq.Frame) -> MayAsk:
    """The permissions of the sender of a message, by the current allow-list."""
    public = gate.sender_of(message)
    return lambda op: check(op, gate.role_of(public))
