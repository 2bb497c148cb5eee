"""Flow control by credits: a camera sends only frames that the node has requested.

A camera (DEALER) sends the number of frames that it has sent, `[CreditAsk]`. The node (ROUTER)
sends the number up to which it may send, `[CreditGrant]`. Both are absolute, so that a message lost
in a reconnect does not lose a credit. A camera without a credit repeats its message every second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from ureca.protocol.events import PROTOCOL_VERSION
from ureca.protocol.messagepack import (
    LIMITS,
    check_id,
    check_parts,
    check_version,
    convert,
    pack,
    unpack,
)

ASK_EVERY_S = 1.0
MAX_CREDITS = 16

_SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Count = Annotated[int, Meta(ge=0)]


class CreditAsk(Struct, frozen=True, kw_only=True):
    """A camera has sent `sent` frames of the stream `src` since its start, and wants to send."""

    v: tuple[int, int] = PROTOCOL_VERSION
    src: str
    session_id: _SessionId
    sent: _Count


class CreditGrant(Struct, frozen=True, kw_only=True):
    """The camera of this `session_id` may send until it has sent `upto` frames."""

    v: tuple[int, int] = PROTOCOL_VERSION
    session_id: _SessionId
    upto: _Count


_Message = TypeVar("_Message", CreditAsk, CreditGrant)


def encode_credit(message: CreditAsk | CreditGrant) -> list[bytes]:
    """The one part of an ask or a grant."""
    return [pack(message)]


def decode_ask(parts: Sequence[bytes]) -> CreditAsk:
    """Read an ask; raises `WireError`."""
    ask = _decode(parts, CreditAsk)
    check_id(ask.src, "stream")
    return ask


def decode_grant(parts: Sequence[bytes]) -> CreditGrant:
    """Read a grant; raises `WireError`."""
    return _decode(parts, CreditGrant)


def _decode(parts: Sequence[bytes], kind: type[_Message]) -> _Message:
    check_parts(parts, least=1, most=1, what="a credit message")
    data = unpack(parts[0], LIMITS)
    check_version(data)
    return convert(data, kind, "credit message")
