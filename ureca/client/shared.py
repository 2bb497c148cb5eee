"""What both clients do without sockets: read events, build requests, read results."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from ureca.clock import MonotonicClock
from ureca.datatypes import AskedStyle, Image, RegionSeed
from ureca.errors import RequestError, VersionError, WireError
from ureca.log import RateLimitedLog
from ureca.protocol.event_table import STREAMS
from ureca.protocol.events import AnyEvent
from ureca.protocol.image_header import measure_head
from ureca.protocol.messagepack import LIMITS, MAJOR, WireLimits, convert
from ureca.protocol.operations import operation_of
from ureca.protocol.region_codec import WireRegion
from ureca.protocol.region_requests import PolicyPatch
from ureca.protocol.requests import DescribeArgs, PictureSpec, Reply, Request
from ureca.protocol.wire import decode_event, event_from_plain
from ureca.region_inputs import RegionLike, seed_of

EVENTS_ADDRESS = "tcp://127.0.0.1:5601"
REQUESTS_ADDRESS = "tcp://127.0.0.1:5602"

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class EventReader:
    """Decodes messages into events and counts lost ones; both clients use it.

    `missed` counts events that were sent but not received (gaps of `event_seq` within one
    `session_id` of the node); `unreadable` counts messages that were not events of this protocol.
    """

    def __init__(self, limits: WireLimits = LIMITS) -> None:
        self.missed = 0
        self.unreadable = 0
        self.session_id = b""
        self._last_event_seq = 0
        self._limits = limits
        self._warn = RateLimitedLog(_log, MonotonicClock())

    def read(self, parts: Sequence[bytes]) -> AnyEvent | None:
        """The event, or None for another message (counted, and logged at a limited rate)."""
        try:
            event = decode_event(parts, self._limits)
        except VersionError:
            raise
        except WireError as error:
            self.unreadable += 1
            self._warn.warning("unreadable", f"dropped a message: {error}")
            return None
        self._follow(event)
        return event

    def _follow(self, event: AnyEvent) -> None:
        if event.session_id == self.session_id:
            self.missed += max(0, event.event_seq - self._last_event_seq - 1)
            self._last_event_seq = max(event.event_seq, self._last_event_seq)
        else:
            self.session_id, self._last_event_seq = event.session_id, event.event_seq


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The node's clock minus ours, off by at most `error_ns`; `clk` is the node's."""

    clk: str
    offset_ns: int
    error_ns: int

    @classmethod
    def of(cls, sent_ns: int, answer: Mapping[str, Any], received_ns: int) -> ClockOffset:
        """Compute it from four stamps: request and reply on our clock, receipt and reply on the
        node's.

        The error is at most half of the round-trip time.
        """
        try:
            there, back = int(answer["recv_ns"]), int(answer["send_ns"])
            clk = str(answer["clk"])
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"expected clk, recv_ns and send_ns, got {answer!r:.80}") from error
        on_the_way_ns = (received_ns - sent_ns) - (back - there)
        offset_ns = ((there - sent_ns) + (back - received_ns)) // 2
        return cls(clk, offset_ns, max(0, on_the_way_ns) // 2 + 1)


def check_kinds(kinds: Collection[str] | None) -> frozenset[str]:
    """Check the kinds of events; a spelling mistake would wait for ever, so it is refused."""
    wanted = frozenset(STREAMS if kinds is None else kinds)
    if unknown := wanted - STREAMS.keys():
        raise WireError(f"unknown event kinds {sorted(unknown)}; known are {sorted(STREAMS)}")
    return wanted


def new_request(op: str, args: Mapping[str, Any] | None, seconds: float) -> Request:
    """A request with a fresh id."""
    deadline_ms = max(1, round(seconds * 1e3))
    return Request(id=os.urandom(16), op=op, deadline_ms=deadline_ms, args=dict(args or {}))


def no_answer(address: str, op: str, seconds: float) -> RequestError:
    """The error for a request without an answer before its deadline."""
    return RequestError(
        f"no answer to {op!r} from {address}: no node of protocol {MAJOR} answered within "
        f"{seconds:g} s. Start one (`ureca run`). If it uses keys, yours may be missing from its "
        "list.",
        code="DEADLINE",
    )


def result_of(reply: Reply) -> dict[str, Any]:
    """The data of a terminal reply; raises `RequestError` for an error."""
    if reply.error is not None:
        error = reply.error
        raise RequestError(error.msg, code=error.code, retry_after_ms=error.retry_after_ms)
    return reply.result


def wire_args(op: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `op` as plain data, a `RegionSeed` as the region of the protocol.

    Raises `WireError` for names that the operation does not have, because a node ignores them; the
    node checks the values.
    """
    operation = operation_of(op)
    if unknown := args.keys() - set(operation.arg_names):
        known = ", ".join(operation.arg_names) or "no arguments"
        raise WireError(f"{op!r} has {known}; got {', '.join(sorted(unknown))}")
    plain = {key: _region(v) if _is_region(key, v) else v for key, v in args.items()}
    if isinstance(plain.get("policy"), dict):
        _check_policy(plain["policy"])
    return plain


def _is_region(key: str, value: Any) -> bool:
    """Whether it is a region as people have them; one that is plain data already is left alone."""
    if isinstance(value, RegionSeed):
        return True
    if key != "region" or value is None:
        return False
    return not (isinstance(value, dict) and value.keys() <= set(WireRegion.__struct_fields__))


def _region(region: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(WireRegion.of(seed_of(region)))
    return {key: value for key, value in plain.items() if value is not None}


def _check_policy(changes: Mapping[str, Any]) -> None:
    """Refuse unknown keys."""
    if unknown := changes.keys() - set(PolicyPatch.__struct_fields__):
        known = ", ".join(PolicyPatch.__struct_fields__)
        raise WireError(f"a policy has {known}; got {', '.join(sorted(unknown))}")


def typed(result: dict[str, Any], kind: type[_Result]) -> _Result:
    """A checked result."""
    return convert(result, kind, kind.__name__)


def snapshot_events(result: dict[str, Any]) -> list[AnyEvent]:
    """The events of a `snapshot` result."""
    listed = result.get("events")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise WireError("expected a snapshot with a list of 'events'")
    return [event_from_plain(item) for item in listed]


def describe_args(
    region: RegionLike | str,
    stream: str | None,
    image: Image | bytes | None,
    style: AskedStyle,
    attributes: Sequence[str] = (),
) -> tuple[DescribeArgs, bytes | None]:
    """The arguments and the image of a `describe` request."""
    spec, picture = (None, None) if image is None else _picture(image)
    try:
        args = DescribeArgs(
            stream=stream,
            picture=spec,
            rid=region if isinstance(region, str) else None,
            region=None if isinstance(region, str) else WireRegion.of(seed_of(region)),
            style=style,
            attributes=tuple(attributes),
        )
    except ValueError as error:
        raise WireError(f"describe: {error}") from error
    return args, picture


def _picture(image: Image | bytes) -> tuple[PictureSpec, bytes]:
    if isinstance(image, bytes):
        facts = measure_head(image)
        if facts.kind not in ("jpeg", "png"):
            raise WireError(f"expected a JPEG, a PNG or an array, got a {facts.kind.upper()}")
        enc: Literal["jpeg", "png"] = "png" if facts.kind == "png" else "jpeg"
        width, height = facts.upright_size
        return PictureSpec(enc=enc, w=width, h=height), image
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise WireError(
            f"an image is RGB u8 [H, W, 3], got {image.dtype} {list(image.shape)}; or give the "
            "bytes of a JPEG or PNG"
        )
    height, width = image.shape[:2]
    return PictureSpec(enc="rgb8", w=width, h=height), image.tobytes()


def left_ms(until: float) -> int:
    """Milliseconds until a time of `time.monotonic`, at least 0."""
    return max(0, round((until - time.monotonic()) * 1e3))
