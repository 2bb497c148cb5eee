"""Converts messages of other processes to frames. No message ends the node: each invalid one is a
drop with a reason.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ureca.client.sockets import FRAME_HWM
from ureca.clock import Clock
from ureca.datatypes import Frame, Image
from ureca.errors import SourceError, WireError
from ureca.log import RateLimitedLog
from ureca.node.config import NodeConfig
from ureca.node.counters import DropReason, NodeCounters
from ureca.node.decoding.decoder_process import Decoder
from ureca.node.decoding.image_decoder import decode_nv12
from ureca.node.sources.clock_sync import Clocks
from ureca.protocol.frames import Pixels
from ureca.protocol.messagepack import LIMITS
from ureca.protocol.shared_memory import RingReader
from ureca.protocol.wire import FrameHeader, decode_frame
from ureca.security.link_guard import LinkGuard

MAX_FRAME_PARTS = 4
"""One more than a frame has: then it is refused."""
_UNITS = ((365 * 86_400, "years"), (86_400, "days"), (3_600, "hours"), (1, "s"))
_OTHER_CLOCK_S = 60.0
"""Further off than links and queues explain."""
_MAX_TOPICS = 64
_MAX_GAP = 1 << 20
_MIN_HELD_BYTES = 128 << 20
_MAX_UNHEARD_BYTES = 4 << 20
_REASONS: dict[str, DropReason] = {
    "BAD_VERSION": "bad_version",
    "TOO_LARGE": "too_large",
    "STALE_FRAME": "superseded",
    "GONE": "decode_error",
}


@dataclass(slots=True)
class _SenderSequence:
    """The numbering of one topic: to tell frames lost on the link from those drained here."""

    session_id: bytes = b""
    seq: int = -1
    received: int = 0


class FrameReceiver:
    """Decodes the messages of one link and counts them; for one thread. `is_local` links may pass
    pixels through shared memory.
    """

    def __init__(
        self, config: NodeConfig, *, clock: Clock, counters: NodeCounters, is_local: bool
    ) -> None:
        self._config = config
        self._clock = clock
        self._counters = counters
        self._ring = RingReader() if is_local else None
        self._decode = Decoder(config)
        self._limits = replace(LIMITS, max_pixels=config.limits.max_image_px)
        self._clocks = Clocks(clock, is_local=is_local)
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._senders: dict[bytes, _SenderSequence] = {}

    def came(self, topic: bytes) -> None:
        """Count a received message of `topic`."""
        self._counters.frame_in()
        self._sender(topic).received += 1

    def frame_links(self, name: str, *, takes_connections: bool) -> LinkGuard:
        """The bounds of what cameras send on this link; those that connect ask before they send."""
        frames_bytes = 2 * FRAME_HWM * 3 * self._config.limits.max_image_px
        return LinkGuard(
            name,
            self._clock,
            max_held_bytes=max(_MIN_HELD_BYTES, frames_bytes),
            max_unheard_bytes=_MAX_UNHEARD_BYTES if takes_connections else None,
        )

    def lost(self) -> None:
        """Count a message for which there is no memory now."""
        self._counters.frame_in()
        self.drop("internal", "there is no memory for it now")

    def superseded(self) -> None:
        """Count a message that is skipped because a newer one of its topic has come."""
        self._counters.frame_dropped("superseded")

    def frame(self, parts: Sequence[bytes]) -> Frame | None:
        """Decode the frame of a received message; None if it was dropped (and counted)."""
        frame = self._decoded(parts)
        if frame is None:
            return None
        frame = self._clocks.ours(frame)
        self._count_gap(self._sender(parts[0]), frame)
        if self._is_expired(frame):
            age_ns = self._clock.now_ns() - frame.captured_ns
            self.drop("expired", f"frame {frame.seq} of {frame.stream} is {describe_age(age_ns)}")
            return None
        return frame

    def drop(self, reason: DropReason, message: str) -> None:
        """Count a message that gives no frame, and log the reason at a limited rate."""
        self._counters.frame_dropped(reason)
        self.warn(reason, f"dropped a frame ({reason}): {message}")

    def warn(self, key: str, message: str) -> None:
        """Log, but not too often under one key."""
        self._log.warning(key, message)

    def left(self, count: int) -> None:
        """Count messages that are not read because the node is ending."""
        if count:
            self._counters.frame_dropped("shutdown", count)

    def prepare(self) -> None:
        """Before the first message: what takes time must not make frames old."""
        self._decode.prepare()

    def close(self) -> None:
        """Give back what shared memory there was, and delete what dead cameras left."""
        self._decode.close()
        if self._ring is not None:
            self._ring.close()

    def _decoded(self, parts: Sequence[bytes]) -> Frame | None:
        try:
            return decode_frame(
                parts,
                self._pixels,
                received_ns=self._clock.now_ns(),
                limits=self._limits,
                shared=None if self._ring is None else self._ring.read,
            )
        except SourceError as error:
            self.drop("decode_error", str(error))
        except WireError as error:
            broken = isinstance(error.__cause__, SourceError)
            reason = "decode_error" if broken else _REASONS.get(error.code, "bad_schema")
            self.drop(reason, str(error))
        except MemoryError:
            self.drop("internal", "there is no memory for its pixels now")
        return None

    def _pixels(self, data: Pixels, header: FrameHeader) -> Image:
        if header.enc == "nv12":
            return decode_nv12(data, width=header.w, height=header.h, stride=header.stride)
        return self._decode(bytes(data), max_px=self._config.limits.max_image_px)

    def _count_gap(self, sender: _SenderSequence, frame: Frame) -> None:
        if sender.session_id == frame.session_id:
            missing = frame.seq - sender.seq - sender.received
            if 0 < missing <= _MAX_GAP:
                self._counters.frame_in(missing)
                self._counters.frame_dropped("link_gap", missing)
        sender.session_id, sender.seq, sender.received = frame.session_id, frame.seq, 0

    def _is_expired(self, frame: Frame) -> bool:
        """A stamp in the future would keep its captions valid for as long."""
        age_ns = self._clock.now_ns() - frame.captured_ns
        return abs(age_ns) > self._config.source.max_age_ms * 1_000_000

    def _sender(self, topic: bytes) -> _SenderSequence:
        if len(self._senders) >= _MAX_TOPICS and topic not in self._senders:
            self._senders.clear()  # made-up topics must not grow without bound
        return self._senders.setdefault(topic, _SenderSequence())


def describe_age(age_ns: int) -> str:
    """The age of a stamp that cannot be used, in words; what mixed-up clocks look like."""
    seconds = abs(age_ns) / 1e9
    size = next(
        (f"{seconds / unit:.0f} {name}" for unit, name in _UNITS if seconds >= 2 * unit), ""
    )
    size = size or f"{seconds * 1e3:.0f} ms"
    words = f"{size} old" if age_ns >= 0 else f"stamped {size} in the future"
    if seconds < _OTHER_CLOCK_S:
        return words
    return f"{words}: `captured_ns` is `time.monotonic_ns()`, or `clk` says which clock it is"


class IdleLink:
    """Detects a link that had frames and has none any more; may be called from any thread."""

    def __init__(self, what: str, clock: Clock, *, after_s: float) -> None:
        self._what, self._clock, self._after_ns = what, clock, int(after_s * 1e9)
        self._heard_ns: int | None = None

    def heard(self) -> None:
        """Note a received frame."""
        self._heard_ns = self._clock.now_ns()

    def reasons(self) -> tuple[str, ...]:
        """The silent link in words for `health`; empty while frames come, and before the first."""
        heard_ns = self._heard_ns
        silent_ns = 0 if heard_ns is None else self._clock.now_ns() - heard_ns
        if silent_ns <= self._after_ns:
            return ()
        return (f"{self._what}: no frame for {silent_ns / 1e9:.0f} s",)
