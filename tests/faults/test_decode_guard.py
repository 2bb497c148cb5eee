"""Pictures decoded apart: a codec that dies, hangs or lies costs its picture and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ureca.client.frame_publisher import FramePublisher
from ureca.clock import MonotonicClock
from ureca.errors import SourceError
from ureca.invariants import imbalances
from ureca.node.config import NodeConfig, PublishConfig, SecurityConfig, SourceConfig
from ureca.node.decoding.decoder_process import DecodeGuard, Decoder
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.node import Node
from ureca.node.sources.base import FrameSource
from ureca.node.sources.factory import open_sources
from ureca.testing import EventCapture, ScriptedEngine, SyntheticSource

MAX_PX = 1 << 20


def jpeg(seq: int = 0, width: int = 160, height: int = 120) -> bytes:
    image = SyntheticSource(width_px=width, height_px=height).image(seq)
    return bytes(cv2.imencode(".jpg", image[..., ::-1])[1])


def png_that_says(width: int, height: int) -> bytes:
    """A valid PNG of black rows, a few KiB for any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes((width + 1) * height), 9)
    end = chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + end


@pytest.fixture
def guard() -> Iterator[DecodeGuard]:
    made = DecodeGuard(MAX_PX, decode_s=20)
    yield made
    made.close()


def in_thread(call: object) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []

    def work() -> None:
        try:
            found.append(call())  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001  (looked at by the test)
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, found


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def asked(pid: int, pipe: int = 0) -> bool:
    """Whether a question waits in the worker's standard input (or words in another pipe of it)."""
    reading = os.open(f"/proc/{pid}/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return any(fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))
    finally:
        os.close(reading)


def test_pixels_are_those_of_this_process(guard: DecodeGuard) -> None:
    for data in (jpeg(), jpeg(3, 64, 48), png_that_says(30, 20), jpeg(1, 333, 17)):
        assert np.array_equal(guard(data, max_px=MAX_PX), decode_picture(data))
    assert guard.restarts == 0


def test_bad_pictures_are_told_as_in_this_process(guard: DecodeGuard) -> None:
    whole = jpeg()
    for data in (
        b"",
        b"nonsense",
        whole[: len(whole) // 2],
        whole[:3] + b"\xff" * 50,
        png_that_says(2000, 2000),
    ):
        with pytest.raises(SourceError) as here:
            decode_picture(data, max_px=MAX_PX)
        with pytest.raises(SourceError) as there:
            guard(data, max_px=MAX_PX)
        assert str(here.value) == str(there.value)
    assert guard.restarts == 0
    assert guard(whole, max_px=MAX_PX).shape == (120, 160, 3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_worker_that_dies_in_the_middle_costs_one_picture(guard, number) -> None:
    expected = decode_picture(jpeg())
    guard(jpeg(), max_px=MAX_PX)
    first = guard.pid
    os.kill(first, signal.SIGSTOP)  # so that it is in the middle for as long as we like
    while not stopped(first):
        time.sleep(0.01)
    thread, found = in_thread(lambda: guard(jpeg(), max_px=MAX_PX))
    while not asked(first):
        time.sleep(0.01)
    assert not found
    os.kill(first, number)
    os.kill(first, signal.SIGCONT)
    thread.join()
    assert isinstance(found[0], SourceError)
    assert np.array_equal(guard(jpeg(), max_px=MAX_PX), expected)
    assert guard.restarts == 1
    assert guard.pid != first


def test_a_worker_that_dies_between_pictures_costs_none(guard: DecodeGuard) -> None:
    guard(jpeg(), max_px=MAX_PX)
    os.kill(guard.pid, signal.SIGKILL)
    os.waitid(os.P_PID, guard.pid, os.WEXITED | os.WNOWAIT)
    assert guard(jpeg(), max_px=MAX_PX).shape == (120, 160, 3)
    assert guard.restarts == 1


def test_a_worker_that_hangs_is_given_up() -> None:
    guard = DecodeGuard(MAX_PX, decode_s=1.5)
    try:
        guard(jpeg(), max_px=MAX_PX)
        hanging = guard.pid
        os.kill(hanging, signal.SIGSTOP)
        with pytest.raises(SourceError, match=r"no answer within 1\.5 s"):
            guard(jpeg(), max_px=MAX_PX)
        assert not Path(f"/proc/{hanging}").exists()
        assert guard(jpeg(), max_px=MAX_PX).shape == (120, 160, 3)
    finally:
        guard.close()


def test_restarts_wait_longer_each_time_until_one_works(guard: DecodeGuard) -> None:
    """A sender whose every picture kills the codec must not make us start processes all day."""
    pauses = []
    for _ in range(4):
        while True:
            try:
                guard.prepare()
                break
            except SourceError as error:
                assert "started again" in str(error)  # noqa: PT017  (one of two ways out)
                time.sleep(0.01)
        guard._bury()
        pauses.append(guard._pause_s)
    assert pauses == [0.1, 0.2, 0.4, 0.8]
    time.sleep(max(0.0, guard._not_before - time.monotonic()) + 0.01)
    guard(jpeg(), max_px=MAX_PX)
    assert guard._pause_s == 0.0


def test_a_closed_guard_leaves_no_process() -> None:
    guard = DecodeGuard(MAX_PX)
    guard(jpeg(), max_px=MAX_PX)
    pid = guard.pid
    guard.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(SourceError, match="closed"):
        guard(jpeg(), max_px=MAX_PX)


def test_auto_is_apart_wherever_a_picture_came_from_another_process() -> None:
    for mode, apart in (("auto", True), ("inside", False), ("apart", True)):
        config = replace(NodeConfig(), security=SecurityConfig(decode=mode))
        assert (Decoder(config).guard is not None) == apart


# --- pixel counts before decoding -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_the_size_is_read_before_a_pixel_is_decoded(suffix: str, monkeypatch) -> None:
    data = bytes(cv2.imencode(suffix, np.zeros((300, 200, 3), np.uint8))[1])
    assert decode_picture(data, max_px=60_000).shape == (300, 200, 3)

    def forbidden(*_: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(cv2, "imdecode", forbidden)
    with pytest.raises(SourceError, match="200x300 exceeds the limit"):
        decode_picture(data, max_px=59_999)


def test_formats_that_nobody_sends_reach_no_codec(monkeypatch) -> None:
    tiff = bytes(cv2.imencode(".tiff", np.zeros((8, 8, 3), np.uint8))[1])
    with pytest.raises(SourceError, match="no readable image"):
        decode_picture(tiff)


# --- a whole node ---------------------------------------------------------------------------------


def test_a_node_outlives_its_decoder(tmp_path: Path) -> None:
    source, capture = SyntheticSource(things=3), EventCapture()
    publish = PublishConfig(
        events=f"ipc://{tmp_path}/events", requests=f"ipc://{tmp_path}/requests", heartbeat_s=0.1
    )
    address = f"ipc://{tmp_path}/frames"
    with (
        FramePublisher(
            address, encoder=lambda image: bytes(cv2.imencode(".jpg", image)[1])
        ) as camera,
        contextlib.ExitStack() as stack,
    ):
        config = replace(
            NodeConfig(),
            source=SourceConfig(uri=f"zmq+{address}"),
            publish=publish,
            security=SecurityConfig(decode="apart"),
        )
        opened: list[FrameSource] = []

        def open_frames(config, clock, counters, wait):
            opened.extend(open_sources(config, clock=clock, counters=counters, wait=wait))
            return opened

        node = Node(
            config,
            ScriptedEngine(),
            clock=MonotonicClock(),
            sinks=[capture],
            open_frames=open_frames,
        )
        node.start()
        stack.callback(node.close)
        guard = opened[0]._receiver._decode.guard  # type: ignore[attr-defined]

        def send_until(condition) -> None:
            until = time.monotonic() + 100
            while not condition():
                assert time.monotonic() < until
                camera.send(source.image(camera.next_seq))
                time.sleep(0.02)

        def lost() -> int:
            return node.balance().frames_dropped.get("decode_error", 0)

        send_until(lambda: node.balance().frames_processed > 5)
        for killed in (1, 2):
            before, worker = node.balance().frames_processed, guard.pid
            os.kill(worker, signal.SIGSTOP)
            while not stopped(worker):
                time.sleep(0.01)
            with contextlib.suppress(FileNotFoundError):  # a slow machine: given up, it hangs
                send_until(lambda pid=worker: asked(pid))  # a picture is in the middle
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            send_until(lambda goal=before + 5: node.balance().frames_processed > goal)
            assert lost() == guard.restarts == killed
    found = imbalances(node.balance().counters(), capture.events)
    assert not found, found
