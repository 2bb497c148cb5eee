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


class ClipPlayer:
    """Plays a clip, at its own rate or as fast as it is taken. Each pass has a `session_id` of its
    own.
    """

    def __init__(
        self, clip: ClipReader, config: NodeConfig, *, clock: Clock, books: NodeCounters, wait: Wait
    ) -> None:
        self._clip = clip
        self._source = config.source
        self._clock = clock
        self._books = books
        self._wait = wait
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._stopped = False

    @property
    def is_lossless(self) -> bool:
        """See `FrameSource`."""
        return not self._source.realtime

    def frames(self) -> Iterator[Frame]:
        """See `FrameSource`. In real time `captured_ns` is when the image is due, else when it is
        read.
        """
        while True:
            yield from self._pass(uuid.uuid4().bytes)
            if self._stopped or not self._source.loop:
                return

    def _pass(self, session_id: bytes) -> Iterator[Frame]:
        start_ns = self._clock.now_ns()
        for seq, (offset_ns, image) in enumerate(self._clip.shots()):
            due_ns = start_ns + offset_ns
            if self._should_stop(due_ns):
                return
            self._books.frame_in()
            if isinstance(image, SourceError):
                self._books.frame_dropped("decode_error")
                self._log.warning("decode_error", f"dropped a picture: {image}")
                continue
            now_ns = self._clock.now_ns()
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

    def _should_stop(self, due_ns: int) -> bool:
        wait_s = (due_ns - self._clock.now_ns()) / 1e9 if self._source.realtime else 0.0
        self._stopped = self._wait(max(0.0, wait_s))
        return self._stopped
