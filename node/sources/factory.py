"""Frames from recordings and from other processes, with every loss counted.

A source counts each frame in (`Books.frame_in`) and each one that it cannot deliver; what it yields
is counted by whoever takes it. Recordings are paced on the injected clock.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ureca.clock import Clock
from ureca.datatypes import Frame
from ureca.errors import SourceError
from ureca.log import RateLimitedLog
from ureca.node.config import NodeConfig
from ureca.node.counters import Books
from ureca.node.sources.base import FrameSource, Wait, Watched
from ureca.node.sources.camera import LiveSource
from ureca.node.sources.camera_capture import DEVICE
from ureca.node.sources.credit_receiver import SCHEME as CREDIT_SCHEME
from ureca.node.sources.credit_receiver import CreditFrames
from ureca.node.sources.multiplexer import Several
from ureca.node.sources.source_uri import NETWORK, Address, addresses_of, shown
from ureca.node.sources.video_readers import Clip, open_clip
from ureca.node.sources.zmq_subscriber import SCHEME as ZMQ_SCHEME
from ureca.node.sources.zmq_subscriber import ZmqFrames

__all__ = ["ClipPlayer", "FrameSource", "Wait", "Watched", "open_source"]

LIVE_SCHEMES = NETWORK | {DEVICE}


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
    """The source, or the sources as one, that `config.source` names. Raises `SourceError` with the
    remedy when one cannot be opened; a camera that is away may come later.
    """
    addresses = addresses_of(config.source)
    if len(addresses) > config.limits.max_streams:
        raise SourceError(
            f"{len(addresses)} sources, and limits.max_streams is {config.limits.max_streams}: "
            f"raise it with --set limits.max_streams={len(addresses)}"
        )
    if len(addresses) == 1:
        return _open(addresses[0], config, clock, books, wait)
    return Several(
        lambda each_wait: [
            _open(address, config, clock, books, each_wait) for address in addresses
        ],
        books=books,
        wait=wait,
    )


def _open(
    address: Address, config: NodeConfig, clock: Clock, books: Books, wait: Wait
) -> FrameSource:
    uri = address.uri
    if not uri:
        raise SourceError(
            "no source: give --source a video file, a folder, a tar, v4l2:///dev/video0, "
            "rtsp://HOST/PATH or zmq+tcp://HOST:PORT"
        )
    if uri.startswith((ZMQ_SCHEME, CREDIT_SCHEME)):
        make = ZmqFrames if uri.startswith(ZMQ_SCHEME) else CreditFrames
        return make(uri, config, clock=clock, books=books, wait=wait)
    scheme = uri.partition("://")[0].lower() if "://" in uri else "file"
    if scheme in LIVE_SCHEMES:
        return LiveSource(address, config, clock=clock, books=books, wait=wait)
    if scheme != "file":
        raise SourceError(f"unknown source {shown(uri)}: docs/sources.md has every form")
    path = Path(uri.removeprefix("file://"))
    clip = open_clip(path, fps=config.source.fps, max_px=config.limits.max_image_px)
    own = replace(config, source=replace(config.source, stream=address.stream))
    return ClipPlayer(clip, own, clock=clock, books=books, wait=wait)
