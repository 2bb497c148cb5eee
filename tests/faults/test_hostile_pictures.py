"""A camera that sends 1,000 hostile files in a row: each is a counted drop, and memory is flat."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import zmq

from tests.faults.test_decode_guard import jpeg, png_that_says
from ureca.clock import MonotonicClock
from ureca.datatypes import Frame
from ureca.invariants import imbalances
from ureca.node.config import NodeConfig, PublishConfig, SecurityConfig, SourceConfig
from ureca.node.node import Node
from ureca.protocol.event_table import FRAME_TOPIC_PART
from ureca.protocol.frames import FrameHeader
from ureca.protocol.messagepack import Topic, pack
from ureca.testing import EventCapture, ScriptedEngine, SyntheticSource

COUNT, GOOD_EVERY, WARMUP = 1000, 50, 200
MAX_GROWTH_MIB = 24.0
_SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif")


def hostile_files(seed: int) -> Iterator[bytes]:
    """Files without an end that no honest camera sends."""
    draw = random.Random(seed)
    whole = [valid(suffix) for suffix in _SUFFIXES]
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    image = SyntheticSource(width_px=160, height_px=120).image(0)
    whole.append(bytes(cv2.imencode(".jpg", image, progressive)[1]))
    bombs = [png_that_says(side, side) for side in (4096, 8192)]
    bombs += [with_size(jpeg(), 65_500, 65_500), whole[0][:2] + b"\xff\xda" * 4000]
    while True:
        kind = draw.randrange(6)
        if kind == 0:
            yield draw.choice(bombs)
        elif kind == 1:
            yield draw.randbytes(draw.randint(1, 5000))
        elif kind == 2:
            yield draw.choice((b"<html>404</html>", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF"))
        else:
            yield damaged(draw.choice(whole), draw)


def valid(suffix: str) -> bytes:
    """A whole picture of this kind, of noise."""
    noise = np.random.default_rng(1).integers(0, 255, (120, 160, 3), np.uint8)
    return bytes(cv2.imencode(suffix, noise)[1])


def with_size(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Cut off, or with a stretch of other bytes in the place of its own."""
    place = draw.randrange(1, len(data))
    if draw.random() < 0.5:
        return data[:place]
    junk = draw.randbytes(draw.randint(1, 400))
    return data[:place] + junk + data[place + len(junk) :]


def mib(*pids: int) -> float:
    """Resident memory of processes."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def children() -> list[int]:
    """The direct children of this process: the decoder is one of them."""
    pid = os.getpid()
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class HostileCamera:
    """Sends files one by one; `FramePublisher` would refuse them before they are sent."""

    def __init__(self, node: Node, address: str) -> None:
        self._node, self._context = node, zmq.Context()
        self._link = self._context.socket(zmq.PUB)
        self._link.linger = 0
        self._link.bind(address)
        self._topic = Topic("node", "cam0", FRAME_TOPIC_PART).encode()
        self.image = SyntheticSource(things=3).image(0)
        self._seq, self._session_id = 0, bytes(range(16))

    def deliver(self, data: bytes) -> None:
        """Send a file, again until it comes in, and wait until it was processed or dropped."""
        came, until = self._node.balance().frames_in, time.monotonic() + 60
        while self._node.balance().frames_in == came:
            assert time.monotonic() < until, "the picture did not come in"
            self._link.send_multipart([self._topic, self._header(), data])
            arrived = time.monotonic() + 2
            while self._node.balance().frames_in == came and time.monotonic() < arrived:
                time.sleep(0.001)
        while open_frames(self._node):
            assert time.monotonic() < until, "the picture is still on its way"
            time.sleep(0.001)

    def _header(self) -> bytes:
        now_ns = time.monotonic_ns()
        frame = Frame("cam0", self._session_id, self._seq, now_ns, self.image)
        self._seq += 1
        return pack(FrameHeader.of(frame, "jpeg"))

    def close(self) -> None:
        """Give the address back."""
        self._context.destroy(linger=0)


def open_frames(node: Node) -> int:
    """Frames that came in and have not ended."""
    now = node.balance()
    return now.frames_in - now.frames_processed - sum(now.frames_dropped.values())


@pytest.fixture
def capture() -> EventCapture:
    return EventCapture()


@pytest.fixture
def node(tmp_path: Path, capture: EventCapture) -> Iterator[Node]:
    """It decodes apart."""
    publish = PublishConfig(
        events=f"ipc://{tmp_path}/events", requests=f"ipc://{tmp_path}/requests"
    )
    config = replace(
        NodeConfig(),
        source=SourceConfig(uri=f"zmq+ipc://{tmp_path}/frames"),
        publish=publish,
        security=SecurityConfig(decode="apart"),
    )
    node = Node(config, ScriptedEngine(), clock=MonotonicClock(), sinks=[capture])
    node.start()
    yield node
    node.close()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_thousand_hostile_files_are_drops_and_nothing_else(
    node: Node, capture: EventCapture, tmp_path: Path
) -> None:
    camera = HostileCamera(node, f"ipc://{tmp_path}/frames")
    honest = bytes(cv2.imencode(".jpg", camera.image[..., ::-1])[1])
    files, sizes, good = hostile_files(7), list[float](), 0
    camera.deliver(honest)
    for number in range(COUNT):
        camera.deliver(next(files))
        if number % GOOD_EVERY == GOOD_EVERY - 1:
            before = node.balance().frames_processed
            camera.deliver(honest)
            good += node.balance().frames_processed - before
            sizes.append(mib(os.getpid(), *children()))
    node.close()
    camera.close()
    balance = node.balance()
    assert good == COUNT // GOOD_EVERY, "every honest picture between them is processed"
    assert sum(balance.frames_dropped.values()) > 0.6 * COUNT
    assert max(sizes) - sizes[WARMUP // GOOD_EVERY] < MAX_GROWTH_MIB, sizes
    found = imbalances(balance.counters(), capture.events)
    assert not found, found
