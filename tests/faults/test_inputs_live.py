"""What cameras and network streams do to a node: they go away, hang, and send nonsense."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.inputs_rig import (
    FakeCamera,
    MjpegServer,
    Rig,
    fake_source,
    jpeg,
    rig,
    until,
)
from ureca.clock import MonotonicClock
from ureca.node.config import NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.protocol.events import CaptionFinal, CaptionSame, Heartbeat

DEVICE = "v4l2:///dev/video7"


def last_caption_ns(node: Rig) -> int:
    said = (e for e in node.events.events if isinstance(e, CaptionFinal | CaptionSame))
    return max((event.captured_ns for event in said), default=0)


def test_a_camera_that_is_unplugged_and_plugged_in_again(tmp_path: Path) -> None:
    camera = FakeCamera()
    patient = {"read_timeout_s": 30.0}  # a busy machine is no outage
    with rig(tmp_path, DEVICE, open_frames=fake_source(camera), **patient) as node:
        until(lambda: node.events.of("caption.final"), "a caption")
        until(lambda: node.reason() == "", "well")
        camera.plugged.clear()
        until(lambda: "is down" in node.reason(), "health names the camera")
        assert "cam0: v4l2:///dev/video7" in node.reason()
        until(lambda: "No such file" in node.reason(), "and why it does not open")
        assert node.counters["sources_down"] == 1
        beats = node.events.of("heartbeat")
        until(lambda: len(node.events.of("heartbeat")) > len(beats), "heartbeats go on")
        last = node.events.of("heartbeat")[-1]
        assert isinstance(last, Heartbeat)
        assert last.counters["sources_down"] == 1
        camera.plugged.set()
        back_ns = time.monotonic_ns()
        node.goes_on()
        until(lambda: last_caption_ns(node) > back_ns, "captions hold again")
        until(lambda: node.reason() == "", "well")
        assert (node.counters["source_outages"], node.counters["sources_down"]) == (1, 0)
        assert camera.opened == 2
        assert node.events.kinds().count("track.new") == 1, "the region lives through the outage"
        assert not node.events.of("track.end", "caption.error")


def test_a_camera_that_comes_late(tmp_path: Path) -> None:
    camera = FakeCamera()
    camera.plugged.clear()
    with rig(tmp_path, DEVICE, open_frames=fake_source(camera)) as node:
        until(lambda: "No such file" in node.reason(), "health names the camera")
        camera.plugged.set()
        until(lambda: node.events.of("caption.final"), "a caption")
        until(lambda: node.reason() == "", "well")


def test_a_driver_that_does_not_return_is_named_and_does_not_hold_up_the_end(
    tmp_path: Path,
) -> None:
    camera = FakeCamera()
    with (
        contextlib.ExitStack() as stack,
        rig(tmp_path, DEVICE, open_frames=fake_source(camera), read_timeout_s=1.0) as node,
    ):
        stack.callback(camera.hanging.clear)
        node.goes_on()
        camera.hanging.set()
        until(lambda: "no picture" in node.reason(), "health names the driver")
        assert node.counters["sources_down"] == 1
        camera.hanging.clear()
        node.goes_on()
        until(lambda: node.dropped.get("expired"), "nobody knows how old the held picture is")
        camera.hanging.set()
        node.node.close()  # comes back although the driver does not


@pytest.mark.timing
def test_a_taker_that_is_slow_gets_the_newest_and_the_others_are_counted() -> None:
    camera, counters, stop = FakeCamera(fps=100), NodeCounters(), threading.Event()
    config = replace(NodeConfig(), source=SourceConfig(uri=DEVICE))
    (source,) = fake_source(camera)(config, MonotonicClock(), counters, stop.wait)
    frames = source.frames()
    first = next(frames)
    assert first.seq == 0, "prompts of a file are drawn on it"
    until(lambda: camera.read_count >= 30, "a burst that nobody takes")
    second = next(frames)
    age_ms = (time.monotonic_ns() - second.captured_ns) / 1e6
    assert second.seq >= first.seq + 20
    assert second.capture_source == "driver"
    stop.set()
    frames.close()  # type: ignore[attr-defined]
    for _ in (first, second):
        counters.frame_processed()
    balance = counters.balance()
    assert balance.closed, balance
    assert balance.frames_dropped["superseded"] >= 20
    counted = balance.frames_in - balance.frames_dropped.get("link_gap", 0)
    assert camera.read_count - 1 <= counted <= camera.read_count  # one may come at the end
    assert age_ms < 30 * 1000 / camera.fps, "newest, not the first of the burst"


def test_a_stream_that_stops_sending_is_noticed_and_opened_anew(tmp_path: Path) -> None:
    with MjpegServer() as server, rig(tmp_path, f"http://{server.address}/mjpg") as node:
        until(lambda: node.events.of("caption.final"), "a caption")
        frames = node.processed
        server.silent.set()  # the connection stands, no byte comes
        until(lambda: "no picture" in node.reason(), "health says so")
        until(lambda: "no picture within 0.5 s" in node.reason(), "and gives up on it")
        until(lambda: len(server.requests) >= 2, "it is opened again")
        server.silent.clear()
        node.goes_on()
        assert node.processed > frames
        until(lambda: node.reason() == "", "well")
        assert node.counters["source_outages"] >= 1
        assert node.events.kinds().count("track.new") == 1


def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    with MjpegServer() as server, rig(tmp_path, f"http://{server.address}/mjpg") as node:
        node.goes_on()
        server.close()
        until(lambda: "cannot open" in node.reason(), "nobody answers")
        assert "ffprobe" in node.reason()
        with MjpegServer(port=server.port):
            node.goes_on()
            until(lambda: node.reason() == "", "well")


@pytest.mark.parametrize("kind", ["no pictures", "no http"])
def test_a_stream_of_garbage_becomes_no_picture_and_good_ones_are_taken_later(
    tmp_path: Path, kind: str
) -> None:
    noise = os.urandom(3000)
    with MjpegServer(lambda number: noise) as server:
        if kind == "no http":
            server.part = lambda number: b"\r\n\r\n" + noise
        with rig(tmp_path, f"http://{server.address}/mjpg", open_timeout_s=1.0) as node:
            until(node.reason, "health says that it is no video")
            assert node.processed == 0
            server.part = jpeg
            node.goes_on()
            until(lambda: node.reason() == "", "well again")
            assert set(node.dropped) <= {"decode_error", "superseded", "link_gap"}


def test_a_truncated_jpeg_is_dropped_and_never_shown(tmp_path: Path) -> None:
    def part(number: int) -> bytes:
        whole = jpeg(number)
        return whole[: len(whole) // 2] if number % 5 == 4 else whole

    with MjpegServer(part) as server, rig(tmp_path, f"http://{server.address}/mjpg") as node:
        until(lambda: node.dropped.get("decode_error", 0) >= 5, "truncated pictures counted")
        node.goes_on()
        assert node.processed > node.dropped["decode_error"]
