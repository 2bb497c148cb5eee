"""Plays a recorded clip at its own rate, or as fast as the caller reads it.

Each image is counted when it is read, and each failed one as dropped. The caller counts yielded
frames. The injected clock sets the pace.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator

from ureca.clock import Clock
from ureca.datatypes import Frame
from ureca.errors import SourceError
from ureca.log import RateLimitedLog
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.base import Wait
from ureca.node.sources.video_readers import ClipReader

_NAMED_S = 5.0
"""A wait for the next picture that is longer is a reason of `health`."""


class ClipPlayer:
    """Plays a clip, at its own rate or as fast as it is taken. Each pass has a `session_id` of its
    own. In real time a gap between two pictures is waited for at most `source.max_gap_s`.
    """

    def __init__(
        self,
        clip: ClipReader,
        config: NodeConfig,
        *,
        clock: Clock,
        counters: NodeCounters,
        wait: Wait,
    ) -> None:
        self._clip = clip
        self._source = config.source
        self._clock = clock
        self._counters = counters
        self._wait = wait
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._stopped = self._was_seen = False
        self._due_ns: int | None = None

    @property
    def fps(self) -> float:
        """The clip's usual rate."""
        return self._clip.fps

    @property
    def is_lossless(self) -> bool:
        """See `FrameSource`."""
        return not self._source.realtime

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource`. In real time `captured_ns` is when the image is due, else when it is
        read.
        """
        while True:
            self._was_seen = False
            try:
                yield from self._pass(uuid.uuid4().bytes)
            except SourceError as error:
                if not (self._source.loop and self._was_seen):
                    raise
                self._log.warning("pass", f"{self._source.stream}: {error}; it begins again")
            if self._stopped or not self._source.loop:
                return

    def reasons(self) -> tuple[str, ...]:
        """See `ReconnectingSource`."""
        due_ns = self._due_ns
        left_s = 0.0 if due_ns is None else (due_ns - self._clock.now_ns()) / 1e9
        if left_s <= _NAMED_S:
            return ()
        return (f"{self._source.stream}: the next picture is due in {left_s:.0f} s",)

    def counters(self) -> dict[str, int]:
        """See `ReconnectingSource`."""
        return {}

    def taken(self, frame: Frame) -> None:
        """See `ReconnectingSource`."""

    def _pass(self, session_id: bytes) -> Iterator[Frame]:
        start_ns, before_ns = self._clock.now_ns(), 0
        for seq, (offset_ns, image) in enumerate(self._clip.shots()):
            start_ns -= self._shortened_ns(offset_ns - before_ns)
            before_ns = offset_ns
            due_ns = start_ns + offset_ns
            if self._should_stop(due_ns):
                return
            self._counters.frame_in()
            if isinstance(image, SourceError):
                self._counters.frame_dropped("decode_error")
                self._log.warning("decode_error", f"dropped a picture: {image}")
                continue
            now_ns, self._was_seen = self._clock.now_ns(), True
            yield Frame(
                stream=self._source.stream,
                session_id=session_id,
                seq=seq,
                captured_ns=due_ns if self._source.realtime else now_ns,
                image=image,
                clock=self._clock.name,
                capture_source="decoder",
                received_ns=now_ns,
            )

    def _shortened_ns(self, step_ns: int) -> int:
        """By how much a gap is shortened."""
        most_s = self._source.max_gap_s
        is_kept = self._source.fps or not self._source.realtime or not most_s
        if is_kept or step_ns <= most_s * 1e9:
            return 0
        self._log.warning(
            "gap",
            f"{self._source.stream}: the next picture is {step_ns / 1e9:.1f} s later in the clip; "
            f"it comes after {most_s:g} s (source.max_gap_s)",
        )
        return step_ns - round(most_s * 1e9)

    def _should_stop(self, due_ns: int) -> bool:
        wait_s = (due_ns - self._clock.now_ns()) / 1e9 if self._source.realtime else 0.0
        self._due_ns = due_ns if wait_s > 0 else None
        self._stopped = self._wait(max(0.0, wait_s))
        self._due_ns = None
        return self._stopped
