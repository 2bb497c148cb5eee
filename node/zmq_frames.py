"""Frames from other processes over ZeroMQ SUB.

Whatever has arrived is drained and only the newest message of each topic is decoded: a small queue
alone does not bound staleness (measured, `research/node-anchors.md` 7.1). Nothing a sender does
ends the node: every message that cannot become a frame is a drop with a reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import zmq

from ureca.clock import Clock
from ureca.datatypes import Frame, Image
from ureca.errors import SourceError, WireError
from ureca.log import RateLimitedLog
from ureca.node.accounting import Books, DropReason
from ureca.node.config import NodeConfig
from ureca.node.pictures import decode_picture
from ureca.sockets import harden, keep_frames_fresh
from ureca.wire import FrameHeader, decode_frame

SCHEME = "zmq+"
_POLL_MS = 100
_MAX_DRAIN = 256
"""Messages drained before the newest ones are decoded: a flood must not keep us from working."""
_MAX_TOPICS = 64
_MAX_GAP = 1 << 20


@dataclass(slots=True)
class _Sender:
    """The numbering of one topic: to tell frames lost on the link from those drained here."""

    boot: bytes = b""
    seq: int = -1
    received: int = 0


class ZmqFrames:
    """Subscribes to one endpoint, `zmq+tcp://host:port` or `zmq+ipc:///path`, and all of its
    streams.
    """

    is_lossless = False

    def __init__(
        self,
        uri: str,
        config: NodeConfig,
        *,
        clock: Clock,
        books: Books,
        wait: Callable[[float], bool],
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self._endpoint = uri.removeprefix(SCHEME)
        self._config = config
        self._clock = clock
        self._books = books
        self._wait = wait
        self._context = context or zmq.Context.instance()
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._senders: dict[bytes, _Sender] = {}
        if not self._endpoint.startswith(("tcp://", "ipc://", "inproc://")):
            raise SourceError(f"expected zmq+tcp://HOST:PORT or zmq+ipc:///PATH, got {uri!r}")

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource`; ends only when told to stop."""
        socket = self._context.socket(zmq.SUB)
        try:
            harden(socket)
            keep_frames_fresh(socket)
            # All majors: an incompatible camera is to be counted and named, not silently unmatched.
            socket.setsockopt(zmq.SUBSCRIBE, b"ureca")
            self._connect(socket)
            while not self._wait(0.0):
                if socket.poll(_POLL_MS):
                    yield from self._decode_newest(self._drain(socket))
        finally:
            socket.close(0)

    def _connect(self, socket: zmq.Socket[bytes]) -> None:
        try:
            socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            raise SourceError(f"cannot connect to {self._endpoint}: {error}") from error

    def _drain(self, socket: zmq.Socket[bytes]) -> dict[bytes, list[bytes]]:
        """The newest message of each topic among those that have arrived; the others are
        `superseded`.
        """
        newest: dict[bytes, list[bytes]] = {}
        for _ in range(_MAX_DRAIN):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._books.frame_in()
            sender = self._sender(parts[0])
            sender.received += 1
            if parts[0] in newest:
                self._books.frame_dropped("superseded")
            newest[parts[0]] = parts
        return newest

    def _decode_newest(self, newest: dict[bytes, list[bytes]]) -> Iterator[Frame]:
        for topic, parts in newest.items():
            frame = self._frame(parts)
            if frame is None:
                continue
            self._count_gap(self._sender(topic), frame)
            if self._is_expired(frame):
                age_ms = (frame.received_ns - frame.captured_ns) // 1_000_000
                self._drop("expired", f"frame {frame.seq} of {frame.stream} is {age_ms} ms old")
                continue
            yield frame

    def _frame(self, parts: Sequence[bytes]) -> Frame | None:
        try:
            return decode_frame(parts, self._pixels, received_ns=self._clock.now_ns())
        except SourceError as error:
            self._drop("decode_error", str(error))
        except WireError as error:
            self._drop(_reason(error), str(error))
        return None

    def _pixels(self, data: bytes, header: FrameHeader) -> Image:
        if header.enc == "nv12":
            raise SourceError("nv12 is not decoded yet; send jpeg, png, rgb8, bgr8 or mono8")
        return decode_picture(data, max_px=self._config.limits.max_image_px)

    def _count_gap(self, sender: _Sender, frame: Frame) -> None:
        if sender.boot == frame.boot:
            missing = frame.seq - sender.seq - sender.received
            if 0 < missing <= _MAX_GAP:
                self._books.frame_in(missing)
                self._books.frame_dropped("link_gap", missing)
        sender.boot, sender.seq, sender.received = frame.boot, frame.seq, 0

    def _is_expired(self, frame: Frame) -> bool:
        """Only a stamp of our own clock can be compared; others are taken as they come. A stamp in
        the future would keep its captions valid for as long.
        """
        if frame.clock != self._clock.name:
            return False
        age_ns = frame.received_ns - frame.captured_ns
        return abs(age_ns) > self._config.source.max_age_ms * 1_000_000

    def _sender(self, topic: bytes) -> _Sender:
        if len(self._senders) >= _MAX_TOPICS and topic not in self._senders:
            self._senders.clear()  # made-up topics must not grow without bound
        return self._senders.setdefault(topic, _Sender())

    def _drop(self, reason: DropReason, message: str) -> None:
        self._books.frame_dropped(reason)
        self._log.warning(reason, f"dropped a frame ({reason}): {message}")


def _reason(error: WireError) -> DropReason:
    if isinstance(error.__cause__, SourceError):
        return "decode_error"
    if error.code == "BAD_VERSION":
        return "bad_version"
    return "too_large" if error.code == "TOO_LARGE" else "bad_schema"
