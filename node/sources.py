"""Frames from recordings and from other processes, with every loss counted.

A source counts each frame in (`Books.frame_in`) and each one that it cannot deliver; what it yields
is counted by whoever takes it. Recordings are paced on the injected clock.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from ureca.clock import Clock
from ureca.datatypes import Frame
from ureca.errors import SourceError
from ureca.log import RateLimitedLog
from ureca.node.accounting import Books
from ureca.node.clips import Clip, open_clip
from ureca.node.config import NodeConfig
from ureca.node.zmq_frames import SCHEME, ZmqFrames

Wait = Callable[[float], bool]
"""Waits up to so many seconds; True means stop. `threading.Event.wait` of a stop event is one."""


class FrameSource(Protocol):
    """Where frames come from."""

    @property
    def is_lossless(self) -> bool:
        """True when every frame must be processed: the taker makes the source wait."""

    def frames(self) -> Iterator[Frame]:
        """Frames until the source ends or is told to stop; called once, from one thread."""


class ClipPlayer:
    """Plays a clip, at its own rate or as fast as it is taken. Each pass has a `boot` of its
    own.
    """

    def __init__(
        self, clip: Clip, config: NodeConfig, *, clock: Clock, books: Books, wait: Wait
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
        """See `FrameSource`. In real time `captured_ns` is when the picture is due, else when it is
        read.
        """
        while True:
            yield from self._pass(uuid.uuid4().bytes)
            if self._stopped or not self._source.loop:
                return

    def _pass(self, boot: bytes) -> Iterator[Frame]:
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
                boot=boot,
                seq=seq,
                captured_ns=due_ns if self._source.realtime else now_ns,
                image=image,
                clock=self._clock.name,
                cap_src="decoder",
                received_ns=now_ns,
            )

    def _should_stop(self, due_ns: int) -> bool:
        wait_s = (due_ns - self._clock.now_ns()) / 1e9 if self._source.realtime else 0.0
        self._stopped = self._wait(max(0.0, wait_s))
        return self._stopped


def open_source(config: NodeConfig, *, clock: Clock, books: Books, wait: Wait) -> FrameSource:
    """The source that `config.source.uri` names. Raises `SourceError` with the remedy when it
    cannot be opened.
    """
    uri = config.source.uri
    if not uri:
        raise SourceError(
            "no source: give --source a video file, a folder, a tar or zmq+tcp://HOST:PORT"
        )
    if uri.startswith(SCHEME):
        return ZmqFrames(uri, config, clock=clock, books=books, wait=wait)
    path = Path(uri.removeprefix("file://"))
    clip = open_clip(path, fps=config.source.fps, max_px=config.limits.max_image_px)
    return ClipPlayer(clip, config, clock=clock, books=books, wait=wait)
