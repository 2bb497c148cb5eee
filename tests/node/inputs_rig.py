"""For tests of inputs: a whole node, cameras that can be unplugged, a server of MJPEG."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from tests.node.conftest import textured
from ureca.clock import Clock, MonotonicClock
from ureca.datatypes import Image, RegionSeed
from ureca.errors import SourceError
from ureca.invariants import imbalances
from ureca.node.config import NodeConfig, PublishConfig, SchedulerConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.node import Node
from ureca.node.sources.base import FrameSource, Wait
from ureca.node.sources.camera import LiveSource
from ureca.node.sources.camera_capture import RawImage
from ureca.node.sources.source_uri import Address
from ureca.testing import EventCapture, ScriptedEngine

GROUND = textured(96, 128, seed=5, low=60, high=200)
BOX = RegionSeed(rid="thing", box_xyxy_px=(20, 20, 60, 60))
QUICK = {"open_timeout_s": 2.0, "read_timeout_s": 0.5, "retry_s": 0.05, "retry_max_s": 0.2}
"""Timeouts of tests: short, and never asserted to the millisecond."""


def until(condition: Callable[[], object], what: str, timeout_s: float = 120) -> None:
    """Wait for something that must come."""
    stop = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop, f"did not happen: {what}"
        time.sleep(0.01)


def picture(number: int) -> Image:
    """RGB of a still scene; a live sensor never gives the same picture twice."""
    noise = np.random.default_rng(number).normal(0, 3, GROUND.shape)
    return np.asarray(np.clip(GROUND + noise, 0, 255), np.uint8)


def jpeg(number: int) -> bytes:
    return bytes(cv2.imencode(".jpg", picture(number)[..., ::-1])[1])


@dataclass
class FakeCamera:
    """Pictures at `fps` while it is plugged in; `stamped` gives exact stamps like a driver, which
    drops what nobody reads in time (`skipped`).
    """

    fps: float = 50.0
    stamped: bool = True
    plugged: threading.Event = field(default_factory=threading.Event)
    hanging: threading.Event = field(default_factory=threading.Event)
    opened: int = 0
    read_count: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        self.plugged.set()

    def open(self, uri: str, config: NodeConfig, clock: Clock) -> FakeCamera:
        if not self.plugged.is_set():
            raise SourceError("no camera at /dev/video7: No such file or directory")
        self.opened += 1
        self._clock = clock
        self._next_ns = clock.now_ns()
        return self

    def read(self) -> RawImage | None:
        step_ns = round(1e9 / self.fps)
        late = max(0, self._clock.now_ns() - self._next_ns) // step_ns
        self.skipped += late
        stamp_ns = self._next_ns + late * step_ns
        self._next_ns = stamp_ns + step_ns
        time.sleep(max(0, stamp_ns - self._clock.now_ns()) / 1e9)
        while self.hanging.is_set():
            time.sleep(0.01)
        if not self.plugged.is_set():
            return None
        self.read_count += 1
        bgr = np.ascontiguousarray(picture(self.read_count)[..., ::-1])
        return RawImage(bgr, self._clock.now_ns(), stamp_ns if self.stamped else None)

    def close(self) -> None:
        pass


class Rig:
    """A started node with the scripted engine; `check` ends it and looks at its counters."""

    def __init__(
        self,
        folder: Path,
        uri: str,
        open_frames: Callable[[NodeConfig, Clock, NodeCounters, Wait], list[FrameSource]]
        | None = None,
        prompts: dict[int, tuple[RegionSeed, ...]] | None = None,
        **source: object,
    ) -> None:
        self.events = EventCapture()
        publish = PublishConfig(
            events=f"ipc://{folder}/events", requests=f"ipc://{folder}/requests", heartbeat_s=0.1
        )
        config = NodeConfig(
            source=SourceConfig(uri=uri, **{**QUICK, **source}),  # type: ignore[arg-type]
            publish=publish,
            scheduler=SchedulerConfig(refresh_s=1.0, min_interval_s=0.5),
        )
        more = {} if open_frames is None else {"open_frames": open_frames}
        self.node = Node(
            config,
            ScriptedEngine(),
            clock=MonotonicClock(),
            prompts={0: (BOX,)} if prompts is None else prompts,
            sinks=[self.events],
            **more,  # type: ignore[arg-type]
        )
        self.node.start()

    @property
    def processed(self) -> int:
        return self.node.balance().frames_processed

    @property
    def dropped(self) -> dict[str, int]:
        return self.node.balance().frames_dropped

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.node.heartbeat().counters)

    def reason(self) -> str:
        return "; ".join(self.node.reasons())

    def goes_on(self, count: int = 5) -> None:
        """More frames are processed from now on."""
        before = self.processed
        until(lambda: self.processed >= before + count, f"{count} more frames")

    def check(self) -> None:
        self.node.close()
        assert self.node.failure is None
        found = imbalances(self.counters, self.events.events)
        assert not found, found


@contextlib.contextmanager
def rig(folder: Path, uri: str, **more: object) -> Iterator[Rig]:
    """A running node whose counters balance afterwards."""
    made = Rig(folder, uri, **more)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.node.close()
    made.check()


def fake_source(
    camera: FakeCamera,
) -> Callable[[NodeConfig, Clock, NodeCounters, Wait], list[FrameSource]]:
    def opened(
        config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait
    ) -> list[FrameSource]:
        address = Address(config.source.stream, config.source.uri)
        source = LiveSource(
            address, config, clock=clock, counters=counters, wait=wait, open_capture=camera.open
        )
        return [source]

    return opened


class MjpegServer:
    """HTTP with `multipart/x-mixed-replace`, as network cameras speak it, on a real TCP port."""

    def __init__(
        self, part: Callable[[int], bytes] = jpeg, *, fps: float = 25.0, port: int = 0
    ) -> None:
        self.part = part
        self.fps = fps
        self.silent = threading.Event()
        """While it is set, connections stay open and nothing is sent: half-open peers."""
        self.requests: list[bytes] = []
        self._stop = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", port))
        self._socket.settimeout(0.1)
        self.port = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, name="mjpeg")]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                link, _ = self._socket.accept()
                thread = threading.Thread(target=self._serve, args=(link,), name="mjpeg-link")
                self._threads.append(thread)
                thread.start()

    def _serve(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            link.settimeout(10)
            self.requests.append(link.recv(4096))
            head = (
                "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=cut\r\n\r\n"
            )
            link.sendall(head.encode())
            number = 0
            while not self._stop.wait(1 / self.fps):
                if self.silent.is_set():
                    continue
                data = self.part(number)
                number += 1
                size = f"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                link.sendall(size.encode() + data + b"\r\n")

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def __enter__(self) -> MjpegServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
