"""Protocol v2: events to and from message parts, and the one import for everything on the wire.

Published form: `docs/protocol.md`. An event is two parts, `[topic][MessagePack header]`; frames are
in `ureca.protocol.frames`, requests and replies in `ureca.protocol.requests` and `.request_codec`,
limits and topics in `ureca.protocol.messagepack`; their public names are repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ureca.errors import VersionError, WireError
from ureca.protocol.event_table import spec_of
from ureca.protocol.events import PROTOCOL_VERSION, AnyEvent, RegionEvent
from ureca.protocol.frames import (
    FrameHeader,
    PixelDecoder,
    decode_frame,
    decode_frame_header,
    encode_frame,
)
from ureca.protocol.messagepack import (
    ERROR_CODES,
    LIMITS,
    NO_STREAM,
    Topic,
    WireLimits,
    check_parts,
    check_version,
    convert,
    or_unknown,
    pack,
    parse_topic,
    subscription,
    unpack,
)
from ureca.protocol.region_codec import WirePrompt, WireRegion, from_wire_rle, to_wire_rle
from ureca.protocol.request_codec import (
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    salvage_request_id,
)
from ureca.protocol.requests import (
    DescribeArgs,
    Description,
    ErrorBody,
    Health,
    Hello,
    Reply,
    Request,
)

__all__ = [
    "ERROR_CODES",
    "LIMITS",
    "NO_STREAM",
    "PROTOCOL_VERSION",
    "DescribeArgs",
    "Description",
    "ErrorBody",
    "FrameHeader",
    "Health",
    "Hello",
    "PixelDecoder",
    "Reply",
    "Request",
    "Topic",
    "VersionError",
    "WireError",
    "WireLimits",
    "WirePrompt",
    "WireRegion",
    "decode_event",
    "decode_frame",
    "decode_frame_header",
    "decode_reply",
    "decode_request",
    "encode_event",
    "encode_frame",
    "encode_reply",
    "encode_request",
    "event_from_plain",
    "event_to_plain",
    "event_topic",
    "from_wire_rle",
    "parse_topic",
    "salvage_request_id",
    "subscription",
    "to_wire_rle",
]

_KNOWN_WORDS: Mapping[str, frozenset[str]] = {
    "status": frozenset({"ok", "truncated"}),
    "score_kind": frozenset({"token_geomean", "none"}),
    "state": frozenset({"starting", "running", "paused", "draining", "stopped"}),
}


def event_topic(event: AnyEvent, node: str) -> Topic:
    """The topic of an event: its stream and region; `_` is the whole node."""
    region = event.rid if isinstance(event, RegionEvent) else None
    return Topic(node, event.stream or NO_STREAM, spec_of(event).topic_part, region)


def encode_event(event: AnyEvent, node: str, limits: WireLimits = LIMITS) -> list[bytes]:
    """The two parts of an event message.

    Raises `WireError` for ids that are not ids, numbers that are not finite, and headers beyond the
    limit.
    """
    return [event_topic(event, node).encode(), pack(event, limits)]


def decode_event(parts: Sequence[bytes], limits: WireLimits = LIMITS) -> AnyEvent:
    """Read an event message; raises `WireError` for anything that is not one."""
    check_parts(parts, least=2, most=2, what="an event")
    topic = parse_topic(parts[0])
    event = event_from_plain(unpack(parts[1], limits))
    expected = event_topic(event, topic.node)
    if expected != topic:
        raise WireError(f"the event belongs under {expected.encode()!r}, got {parts[0][:80]!r}")
    return event


def event_to_plain(event: AnyEvent) -> dict[str, Any]:
    """An event as plain data, as `snapshot` replies carry it."""
    plain: dict[str, Any] = msgspec.to_builtins(event, builtin_types=(bytes,))
    return plain


def event_from_plain(data: dict[str, Any]) -> AnyEvent:
    """The inverse of `event_to_plain`, for data from outside."""
    check_version(data)
    or_unknown(data, _KNOWN_WORDS)
    # mypy knows unions as types only in annotations
    event: AnyEvent = convert(data, AnyEvent, "event")  # type: ignore[arg-type]
    return event
