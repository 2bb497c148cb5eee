"""The common part of both clients without sockets: decode events, build requests, read replies."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from ureca.clock import MonotonicClock
from ureca.datatypes import Image, RegionSeed, Style
from ureca.errors import RequestError, VersionError, WireError
from ureca.log import RateLimitedLog
from ureca.protocol.event_table import STREAMS
from ureca.protocol.events import AnyEvent
from ureca.protocol.image_header import picture_size
from ureca.protocol.messagepack import LIMITS, MAJOR, WireLimits
from ureca.protocol.region_codec import WireRegion
from ureca.protocol.requests import DescribeArgs, PictureSpec, Reply, Request
from ureca.protocol.wire import decode_event

EVENTS_ADDRESS = "tcp://127.0.0.1:5601"
REQUESTS_ADDRESS = "tcp://127.0.0.1:5602"

_log = logging.getLogger(__name__)


class EventReader:
    """Decodes messages into events and counts lost ones; both clients use it.

    `missed` counts events that were sent but not received (gaps of `eseq` within one `boot` of the
    node); `unreadable` counts messages that were not events of this protocol.
    """

    def __init__(self, limits: WireLimits = LIMITS) -> None:
        self.missed = 0
        self.unreadable = 0
        self.boot = b""
        self._last_eseq = 0
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
        if event.boot == self.boot:
            self.missed += max(0, event.eseq - self._last_eseq - 1)
            self._last_eseq = max(event.eseq, self._last_eseq)
        else:
            self.boot, self._last_eseq = event.boot, event.eseq


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


def describe_args(
    region: RegionSeed | str, stream: str | None, image: Image | bytes | None, style: Style
) -> tuple[DescribeArgs, bytes | None]:
    """The arguments and the image of a `describe` request."""
    spec, picture = (None, None) if image is None else _picture(image)
    try:
        args = DescribeArgs(
            stream=stream,
            picture=spec,
            rid=region if isinstance(region, str) else None,
            region=WireRegion.of(region) if isinstance(region, RegionSeed) else None,
            style=style,
        )
    except ValueError as error:
        raise WireError(f"describe: {error}") from error
    return args, picture


def _picture(image: Image | bytes) -> tuple[PictureSpec, bytes]:
    if isinstance(image, bytes):
        enc: Literal["jpeg", "png"] = "png" if image.startswith(b"\x89PNG") else "jpeg"
        width, height = picture_size(image, enc)
        return PictureSpec(enc=enc, w=width, h=height), image
    height, width = image.shape[:2]
    return PictureSpec(enc="rgb8", w=width, h=height), image.tobytes()


def left_ms(until: float) -> int:
    """Milliseconds until a time of `time.monotonic`, at least 0."""
    return max(0, round((until - time.monotonic()) * 1e3))
