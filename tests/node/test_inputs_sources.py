"""Forms of `--source`: names, URIs, secrets in them, stamps, several at once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.node.inputs_rig import MjpegServer, rig, until
from ureca.client.client import Client
from ureca.clock import MonotonicClock
from ureca.datatypes import EngineInfo, Frame
from ureca.errors import ConfigError, SourceError
from ureca.native_threads import running
from ureca.node.config import LimitsConfig, NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.decoding.image_decoder import decode_nv12
from ureca.node.monitoring.health import HealthMonitor
from ureca.node.pipeline.source_thread import SourceThread
from ureca.node.recording.header import head_of
from ureca.node.sources.base import FrameSource, SourceStatus
from ureca.node.sources.factory import open_sources
from ureca.node.sources.frame_gaps import StampGaps
from ureca.node.sources.frame_mailbox import Mailbox
from ureca.node.sources.source_uri import addresses_of, hide_secrets, sources_of
from ureca.testing import ScriptedEngine, SyntheticSource

SECRET = "hunter2"


def opened(*uris: str, **limits: int) -> tuple[FrameSource, ...]:
    source = sources_of(uris, SourceConfig())
    config = replace(NodeConfig(), source=source, limits=LimitsConfig(**limits))
    return open_sources(
        config, clock=MonotonicClock(), counters=NodeCounters(), wait=lambda _: True
    )


def test_names_and_places_of_several_sources() -> None:
    source = sources_of(("front=rtsp://h/a?x=1", "/clips/b=c.mp4", "rear=d.mp4"), SourceConfig())
    found = [(a.stream, a.uri) for a in addresses_of(source)]
    assert found == [
        ("front", "rtsp://h/a?x=1"),
        ("cam1", "/clips/b=c.mp4"),
        ("rear", "d.mp4"),
    ]
    assert sources_of((), SourceConfig(uri="x.mp4")).uri == "x.mp4"


@pytest.mark.parametrize(
    ("uris", "words"),
    [
        (("a=x.mp4", "a=y.mp4"), "stream 'a'"),
        (("v4l2:///dev/video0?wdith=3",), "wdith"),
        (("v4l2:///dev/video0?width=many",), "many"),
        (("v4l2:///dev/video0?width=0&height=9",), "above 0"),
        (("v4l2:///dev/video0?width=640",), "go together"),
        (("v4l2:///dev/video0?fourcc=JPEG2",), "fourcc"),
        (("v4l2://dev/video0",), "v4l2:///dev/video0"),
        (("rtsp:///nowhere",), "rtsp://HOST"),
        (("http://host:port/x",), "no URI"),
        (("gopher://h/x",), "unknown source gopher"),
        (("front=zmq+tcp://127.0.0.1:1",), "leave out the name"),
        (("credit+inproc://x",), "credit\\+tcp"),
        (tuple(f"rtsp://h/{n}" for n in range(5)), "limits.max_streams"),
    ],
)
def test_what_can_never_be_opened_is_said_at_the_start(uris: tuple[str, ...], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        opened(*uris)


def test_a_node_takes_cameras_from_the_network_only_with_keys() -> None:
    with pytest.raises(ConfigError, match="CURVE"):
        opened("credit+tcp://0.0.0.0:5603")


@pytest.mark.parametrize(
    "uri",
    [
        f"rtsp://user:{SECRET}@10.0.0.9:554/live",
        f"rtsp://user:a/{SECRET}@10.0.0.9:554/live",
        f"http://10.0.0.9:554/v.cgi?user=u&pwd={SECRET}",
        f"RTSP://10.0.0.9:554/user=u&password={SECRET}/1.sdp",
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri: str) -> None:
    assert SECRET not in hide_secrets(uri)
    assert "10.0.0.9:554" in hide_secrets(uri)
    source = sources_of((f"front={uri}", f"rear={uri}", uri), SourceConfig())
    info: EngineInfo = ScriptedEngine().info
    head = head_of(replace(NodeConfig(), source=source), {}, info)
    assert SECRET not in json.dumps(head)
    assert "front" in head["config"]


def test_no_secret_reaches_the_output_of_a_node(tmp_path: Path) -> None:
    """FFmpeg writes to stderr by itself: so a whole process is looked at."""
    script = Path(__file__).resolve().parents[1] / "system" / "scripted_node.py"
    root, events = Path(__file__).resolve().parents[2], tmp_path / "events.jsonl"
    with MjpegServer(lambda number: b"no picture") as server:
        uris = [
            f"{scheme}://user:{SECRET}@{server.address}/{SECRET}?{SECRET}"
            for scheme in ("http", "rtsp")
        ]
        uris.append(f"rtsp://user:{SECRET}@127.0.0.1:1/x")
        command = [sys.executable, str(script), "--events", "events.jsonl"]
        command += [word for uri in uris for word in ("--source", uri)]
        for key in ("events", "requests"):
            command += ["--set", f"publish.{key}=ipc://{tmp_path}/{key}"]
        command += ["--set", "source.open_timeout_s=1", "--set", "source.read_timeout_s=1"]
        node = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root), "OPENCV_LOG_LEVEL": "DEBUG"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: '"sources_down":3' in read_text(events), "that all sources are down")
        finally:
            node.terminate()
            out, err = node.communicate(timeout=100)
    assert node.returncode in {0, 2}, err  # 2: no picture came
    assert "is down" in err
    assert "every frame and caption is accounted for" in out
    assert SECRET not in out + err + read_text(events)


def read_text(path: Path) -> str:
    """What stands in a file, nothing if there is none yet."""
    return path.read_text() if path.is_file() else ""


def test_no_secret_is_told_to_who_asks(tmp_path: Path) -> None:
    with MjpegServer() as server:
        uri = f"http://user:{SECRET}@{server.address}/{SECRET}"
        with rig(tmp_path, uri, also=(f"rear={uri}",)) as node:
            until(lambda: node.processed, "a frame")
            addresses = f"ipc://{tmp_path}/events", f"ipc://{tmp_path}/requests"
            with Client.connect(*addresses, timeout_s=20) as client:
                told = repr([client.request(op, {}) for op in ("config.get", "health", "stats")])
        assert server.address in told
        assert SECRET not in told


def clip(path: Path, frames: int) -> Path:
    path.mkdir()
    for number in range(frames):
        image = SyntheticSource().image(number)[..., ::-1]
        cv2.imwrite(str(path / f"{number:03}.png"), np.ascontiguousarray(image))
    return path


class Fed:
    """Sources that are read into a mailbox, and who takes their frames."""

    def __init__(
        self, sources: Sequence[FrameSource], counters: NodeCounters, stop: threading.Event
    ) -> None:
        self.counters, self.stop = counters, stop
        self.health_monitor = HealthMonitor(counters, ScriptedEngine().info, MonotonicClock(), dict)
        self.mailbox = Mailbox(counters, max_streams=4)
        self.feeder = SourceThread(sources, self.mailbox, {}, self.health_monitor, stop)
        self.seen: dict[str, list[int]] = {}
        self.feeder.start()

    @property
    def count(self) -> int:
        return sum(map(len, self.seen.values()))

    def take(self, until: Callable[[], bool]) -> None:
        """Take frames until that is true."""
        end_s = time.monotonic() + 30
        while not until():
            assert time.monotonic() < end_s, self.seen
            frame = self.mailbox.take(0.05)
            if frame is not None:
                self.seen.setdefault(frame.stream, []).append(frame.seq)
                self.counters.frame_processed()

    def is_over(self) -> bool:
        return self.feeder.ended.is_set() and self.mailbox.is_empty()

    def close(self) -> None:
        """As a node ends: the threads end, the counters balance."""
        self.stop.set()
        self.mailbox.close()
        self.feeder.join()
        assert self.feeder.ended.is_set()
        assert self.counters.balance().closed


def several(tmp_path: Path, *, gone: bool = False, **source: object) -> NodeConfig:
    """Two clips of 5 and 9 pictures, and a camera that is away."""
    also = (f"rear={clip(tmp_path / 'b', 9)}", *(["gone=rtsp://127.0.0.1:1/x"] if gone else []))
    first = SourceConfig(uri=str(clip(tmp_path / "a", 5)), stream="front", also=also, **source)  # type: ignore[arg-type]
    return replace(NodeConfig(), source=first)


@pytest.fixture
def feed() -> Iterator[Callable[..., tuple[Fed, SourceStatus]]]:
    with contextlib.ExitStack() as stack:

        def begin(config: NodeConfig, *more: FrameSource) -> tuple[Fed, SourceStatus]:
            counters, stop = NodeCounters(), threading.Event()
            sources = open_sources(
                config, clock=MonotonicClock(), counters=counters, wait=stop.wait
            )
            fed = Fed((*sources, *more), counters, stop)
            stack.callback(fed.close)
            return fed, SourceStatus(sources)

        yield begin


BOTH = {"front": list(range(5)), "rear": list(range(9))}


def test_several_sources_at_once_each_with_its_stream(
    tmp_path: Path, feed: Callable[..., tuple[Fed, SourceStatus]]
) -> None:
    fed, status = feed(several(tmp_path, gone=True, realtime=False))
    fed.take(lambda: fed.count == 14)
    until(lambda: "gone: rtsp" in "; ".join(status.reasons()), "the third is named")
    assert status.counters()["sources_down"] == 1
    names = sorted(name for name in running() if name.startswith("ureca-"))
    assert set(names) <= {f"ureca-source-{n}" for n in range(3)} | {"ureca-read-gone"}
    assert {"ureca-source-2", "ureca-read-gone"} <= set(names)
    assert fed.seen == BOTH
    assert not fed.feeder.ended.is_set()


def test_the_last_source_that_ends_ends_all(
    tmp_path: Path, feed: Callable[..., tuple[Fed, SourceStatus]]
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"")
    with pytest.raises(SourceError):
        opened(str(clip(tmp_path / "c", 2)), str(tmp_path / "bad.mp4"))
    fed, _ = feed(several(tmp_path, realtime=False))
    fed.take(fed.is_over)
    assert fed.seen == BOTH
    assert fed.counters.balance().frames_in == 14
    assert fed.health_monitor.failure is None


class Failing:
    """A source that breaks at once."""

    is_lossless = False

    def frames(self) -> Iterator[Frame]:
        raise SourceError("the plug is out")
        yield  # a generator


def test_the_failure_of_one_source_does_not_end_the_others_and_is_told(
    tmp_path: Path, feed: Callable[..., tuple[Fed, SourceStatus]]
) -> None:
    fed, _ = feed(several(tmp_path, realtime=False), Failing())
    until(fed.health_monitor.reasons, "health names it while the others go on")
    assert fed.health_monitor.reasons() == ("source: the plug is out",)
    assert fed.health_monitor.failure is None
    fed.take(fed.is_over)
    assert fed.seen == BOTH
    assert str(fed.health_monitor.failure) == "the plug is out"


def test_a_stop_that_was_asked_for_is_no_failure(
    tmp_path: Path, feed: Callable[..., tuple[Fed, SourceStatus]]
) -> None:
    fed, _ = feed(several(tmp_path, loop=True, realtime=False), Failing())
    fed.take(lambda: len(fed.seen) == 2 and 0 in fed.seen["front"][1:])
    fed.close()
    assert fed.health_monitor.failure is None
    assert fed.seen["front"][:3] == [0, 1, 2], "each begins, and begins again"


def test_a_stream_that_waits_does_not_hold_up_another(
    tmp_path: Path, feed: Callable[..., tuple[Fed, SourceStatus]]
) -> None:
    """Each source that must lose nothing waits for room of its own stream."""
    fed, _ = feed(several(tmp_path, realtime=False))
    until(
        lambda: fed.counters.balance().frames_in == 4, "each has read one more than it could leave"
    )
    first, second = fed.mailbox.take(1), fed.mailbox.take(1)
    assert {first and first.stream, second and second.stream} == {"front", "rear"}
    fed.counters.frame_processed()
    fed.counters.frame_processed()
    fed.take(fed.is_over)
    assert fed.count == 12


def test_stamps_tell_what_a_driver_dropped() -> None:
    gaps, step = StampGaps(), 33_366_667
    places = [*range(40), 43, 44, 50, *range(51, 60)]
    jitter = [0, 1, -2, 3, -1]
    missing = {n: gaps.missing(n * step + jitter[n % 5] * 400_000) for n in places}
    assert {n: count for n, count in missing.items() if count} == {43: 3, 50: 5}
    assert gaps.missing(0) == 0, "a clock that fell tells nothing"


def test_a_camera_that_slows_down_is_not_taken_for_a_lossy_one_for_long() -> None:
    gaps, step = StampGaps(), 33_000_000
    for number in range(40):
        gaps.missing(number * step)
    later = [gaps.missing((40 + 2 * number) * step) for number in range(100)]
    assert sum(later) <= 16
    assert not any(later[17:])


@pytest.mark.parametrize(("width", "height", "padding"), [(64, 48, 0), (64, 48, 16), (63, 47, 1)])
def test_nv12_gives_the_colours_back(width: int, height: int, padding: int) -> None:
    even_w, even_h = width + width % 2, height + height % 2
    image = np.zeros((even_h, even_w, 3), np.uint8)
    image[: even_h // 2] = (200, 30, 30)
    image[even_h // 2 :, : even_w // 2] = (30, 60, 200)
    image[even_h // 2 :, even_w // 2 :] = (30, 160, 40)
    planar = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
    luma = planar[:even_h][:height]
    cb, cr = planar[even_h:].reshape(2, even_h // 2, even_w // 2)
    chroma = np.stack([cb, cr], axis=2).reshape(even_h // 2, even_w)
    stride = even_w + padding - width % 2
    rows = np.zeros((height + (height + 1) // 2, stride), np.uint8)
    rows[:height, :even_w], rows[height:, :even_w] = luma, chroma
    found = decode_nv12(rows.tobytes(), width=width, height=height, stride=stride)
    assert found.shape == (height, width, 3)
    middle = (slice(4, -4), slice(4, -4))
    wrong = np.abs(found.astype(int) - image[:height, :width])[middle].max(axis=2)
    assert np.median(wrong) <= 4
    assert (wrong > 24).mean() < 0.1  # the edges between colours


def test_nv12_of_another_length_is_refused() -> None:
    with pytest.raises(SourceError, match="NV12 of 64x48"):
        decode_nv12(bytes(64 * 72 - 1), width=64, height=48)
