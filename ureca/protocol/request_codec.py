"""Requests and replies to and from message parts."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from ureca.errors import WireError
from ureca.protocol.messagepack import (
    ERROR_CODES,
    LIMITS,
    WireLimits,
    check_parts,
    check_version,
    convert,
    or_unknown,
    pack,
    unpack,
)
from ureca.protocol.operations import operation_of
from ureca.protocol.requests import ErrorBody, Reply, Request

Buffer = bytes | memoryview
_MAX_ID_BYTES, _MAX_REQUEST_KEYS = 16, 16
_STATES = frozenset({"accepted", "progress", "result", "error"})


def encode_request(
    request: Request, picture: bytes | None = None, limits: WireLimits = LIMITS
) -> list[bytes]:
    """The one or two parts of a request."""
    return [pack(request, limits.for_requests), *([] if picture is None else [picture])]


def decode_request(
    parts: Sequence[Buffer], limits: WireLimits = LIMITS
) -> tuple[Request, Buffer | None]:
    """The request and its picture; raises `WireError` with the code to answer. The picture is
    only measured: it may stay where it was received.
    """
    check_parts(parts, least=1, most=2, what="a request")
    data = unpack(bytes(parts[0]), limits.for_requests)
    check_version(data)
    request = convert(data, Request, "request")
    operation_of(request.op)
    picture = parts[1] if len(parts) == 2 else None
    if picture is not None and len(picture) > limits.max_payload_bytes:
        raise WireError(
            f"expected a picture of at most {limits.max_payload_bytes} bytes, got {len(picture)}",
            code="TOO_LARGE",
        )
    return request, picture


def salvage_request_id(parts: Sequence[Buffer], limits: WireLimits = LIMITS) -> bytes | None:
    """The id of an otherwise invalid request, so that its error reaches its sender.

    Only the keys of its map are read, and no more than a valid request has of them.
    """
    if not parts:
        return None
    unpacker = msgpack.Unpacker(strict_map_key=False, max_bin_len=_MAX_ID_BYTES)
    unpacker.feed(bytes(parts[0][: limits.max_request_bytes]))
    try:
        for _ in range(min(unpacker.read_map_header(), _MAX_REQUEST_KEYS)):
            if unpacker.unpack() == "id":
                found = unpacker.unpack()
                return found if isinstance(found, bytes) and found else None
            unpacker.skip()
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return None


def encode_reply(reply: Reply, limits: WireLimits = LIMITS) -> list[bytes]:
    """The one part of a reply.

    A result that cannot be sent becomes an error, so that every request gets a reply.
    """
    try:
        return [pack(reply, limits.for_replies)]
    except WireError as error:
        refusal = Reply(v=reply.v, id=reply.id, status="error", error=ErrorBody.of(error))
        return [pack(refusal, limits.for_replies)]


def decode_reply(parts: Sequence[bytes], limits: WireLimits = LIMITS) -> Reply:
    """Read a reply; raises `WireError`."""
    check_parts(parts, least=1, most=1, what="a reply")
    data = unpack(parts[0], limits.for_replies)
    check_version(data)
    or_unknown(data, {"status": _STATES})
    if isinstance(data.get("error"), dict):
        or_unknown(data["error"], {"code": ERROR_CODES})
    reply = convert(data, Reply, "reply")
    if (reply.error is None) == (reply.status == "error"):
        raise WireError(
            f"a reply has an 'error' exactly when its state is 'error', got {reply.status!r}"
        )
    return reply
