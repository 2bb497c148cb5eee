from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import msgpack
import numpy as np
import pytest
import zmq

from ureca.clock import ManualClock, MonotonicClock
from ureca.datatypes import Frame
from ureca.errors import ConfigError, SourceError
from ureca.node.config import NodeConfig, PublishConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.factory import open_source
from ureca.node.sources.prompt_file import first_frame_mask, load_prompts
from ureca.node.sources.zmq_subscriber import ZmqFrames
from ureca.protocol import rle
from ureca.protocol.frames import FrameHeader
from ureca.protocol.wire import encode_frame
from ureca.testing import SyntheticSource

PICTURE = SyntheticSource().image(0)


def encoded(suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, PICTURE[..., ::-1])[1])


def play(uri: Path | str, **source: object) -> tuple[list[Frame], NodeCounters, ManualClock]:
    clock, counters = ManualClock(5_000_000_000), NodeCounters()

    def wait(seconds: float) -> bool:
        clock.advance(ns=round(seconds * 1e9))
        return False

    config = replace(NodeConfig(), source=SourceConfig(uri=str(uri), **source))  # type: ignore[arg-type]
    return (
        list(open_source(config, clock=clock, counters=counters, wait=wait).frames()),
        counters,
        clock,
    )


def test_a_folder_plays_at_its_rate_on_the_injected_clock(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number:05}.png").write_bytes(encoded(".png"))
    frames, counters, clock = play(tmp_path, fps=10)
    assert [f.seq for f in frames] == [0, 1, 2]
    assert [f.captured_ns - 5_000_000_000 for f in frames] == [0, 100_000_000, 200_000_000]
    assert clock.now_ns() == 5_200_000_000
    assert np.array_equal(frames[0].image, PICTURE)
    assert counters.balance().frames_in == 3


def test_a_corrupt_picture_keeps_its_place_and_is_counted(tmp_path: Path) -> None:
    jpeg = encoded(".jpg")
    for number, data in enumerate([jpeg, jpeg[:-200], b"no picture", b"", jpeg]):
        (tmp_path / f"{number:05}.jpg").write_bytes(data)
    frames, counters, _ = play(tmp_path, fps=10)
    assert [f.seq for f in frames] == [0, 4]
    assert counters.balance().frames_dropped == {"decode_error": 3}


def test_a_tar_plays_its_frames_folder_and_brings_its_first_mask(tmp_path: Path) -> None:
    path = tmp_path / "clip.tar"
    mask = SyntheticSource().masks(0)["red"]
    stored = bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1])
    with tarfile.open(path, "w") as archive:
        for name, data in [
            ("frames/00001.webp", encoded(".webp")),
            ("frames/00000.webp", encoded(".webp")),
            ("masks/00000.png", stored),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    frames, _, _ = play(path)
    assert len(frames) == 2
    (seed,) = first_frame_mask(path)[0]
    assert seed.mask is not None
    assert np.array_equal(rle.decode(seed.mask), mask)


def test_a_video_plays_with_the_containers_times_and_loops_with_a_new_boot(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (160, 120))
    for seq in range(4):
        writer.write(SyntheticSource().image(seq)[..., ::-1].copy())
    writer.release()
    frames, _, _ = play(path)
    assert [round((f.captured_ns - frames[0].captured_ns) / 1e6) for f in frames] == [
        0,
        50,
        100,
        150,
    ]
    config = replace(NodeConfig(), source=SourceConfig(uri=str(path), loop=True, realtime=False))
    clock, counters = ManualClock(), NodeCounters()
    source = open_source(config, clock=clock, counters=counters, wait=lambda s: False)
    looped = source.frames()
    sessions = [next(looped).session_id for _ in range(8)]
    assert source.is_lossless
    assert len(set(sessions[:4])) == len(set(sessions[4:])) == 1
    assert sessions[0] != sessions[4]


@pytest.mark.parametrize("name", ["missing.mp4", "noise.mp4", "empty.mp4", "broken.tar", "void"])
def test_what_cannot_be_opened_is_a_source_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "broken.tar").write_bytes(b"not a tar")
    (tmp_path / "void").mkdir()
    with pytest.raises(SourceError):
        play(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{}]", "entry 0"),
        ('[{"frame": 0, "box": [1, 2, 30, 40]}, {"frame": 0, "box": [5, 5, 5, 5]}]', "entry 1"),
        ('[{"point": [1, 2], "colour": "red"}]', "colour"),
        ('[{"frame": -1, "point": [1, 2]}]', "frame"),
        ('{"frame": 0}', "list"),
        ("not json", "not JSON"),
    ],
)
def test_prompt_files_name_the_entry_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_prompts(path)


def test_a_network_address_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="loopback"):
        NodeConfig(publish=PublishConfig(events="tcp://0.0.0.0:5601"))
    local = PublishConfig(events="ipc:///tmp/ureca-events", requests="tcp://localhost:5602")
    NodeConfig(publish=local)


# --- frames over ZeroMQ ---------------------------------------------------------------------------


class Camera:
    """A PUB socket that may also send nonsense, and the node's source on the other side."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.PUB)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.counters = NodeCounters()
        self.stopped = False
        clock = MonotonicClock()
        self.source = ZmqFrames(
            f"zmq+tcp://127.0.0.1:{port}",
            replace(NodeConfig(), source=SourceConfig(max_age_ms=5000)),
            clock=clock,
            counters=self.counters,
            wait=lambda seconds: self.stopped,
            context=self.context,
        )
        self.frames = self.source.frames()

    def message(
        self, seq: int, *, age_ns: int = 0, seeds: object = None, **fields: object
    ) -> list[bytes]:
        now_ns = time.monotonic_ns() - age_ns
        frame = Frame("cam0", bytes(16), seq, now_ns, PICTURE, regions=seeds)  # type: ignore[arg-type]
        header = FrameHeader.of(frame, "jpeg")
        parts = encode_frame(header, encoded(".jpg"), "camera")
        plain = msgpack.unpackb(parts[1])
        plain.update(fields)
        return [parts[0], msgpack.packb(plain), parts[2]]

    def joined(self) -> Frame:
        """Send until the subscription is through; everything before counts as sent to nobody."""
        stop = time.monotonic() + 20
        running = threading.Event()

        def talk() -> None:
            seq = 0
            while not running.wait(0.02) and time.monotonic() < stop:
                self.socket.send_multipart(self.message(seq))
                seq += 1

        talker = threading.Thread(target=talk, name="talker")
        talker.start()
        try:
            return next(self.frames)
        finally:
            running.set()
            talker.join()

    def next_after_drop(self, reason: str, before: int) -> Frame:
        """Send the next good frame only when the bad one was counted: it must not be superseded."""

        def talk() -> None:
            until = time.monotonic() + 20
            while time.monotonic() < until:
                if self.counters.balance().frames_dropped.get(reason, 0) > before:
                    self.socket.send_multipart(self.message(2000))
                    return
                time.sleep(0.01)

        talker = threading.Thread(target=talk, name="talker")
        talker.start()
        try:
            return next(frame for frame in self.frames if frame.seq == 2000)
        finally:
            talker.join()

    def close(self) -> None:
        self.stopped = True
        self.frames.close()  # type: ignore[attr-defined]
        self.socket.close(0)
        self.context.term()


@pytest.fixture
def camera() -> Iterator[Camera]:
    made = Camera()
    yield made
    made.close()


def with_region(**region: object) -> dict[str, object]:
    return {"regions": [region]}


BAD: dict[str, tuple[str, Callable[[Camera], list[bytes]]]] = {
    "corrupt jpeg": ("decode_error", lambda c: [*c.message(1000)[:2], c.message(1000)[2][:-300]]),
    "truncated multipart": ("bad_schema", lambda c: c.message(1000)[:2]),
    "other major version": ("bad_version", lambda c: c.message(1000, v=[9, 0])),
    "other major topic": (
        "bad_version",
        lambda c: [b"ureca9/camera/cam0/frame\0", *c.message(1000)[1:]],
    ),
    "oversize header": ("too_large", lambda c: c.message(1000, frame_id="x" * (3 << 20))),
    "nan box": (
        "bad_schema",
        lambda c: c.message(1000, **with_region(box=[1, 2, float("nan"), 4])),
    ),
    "late": ("expired", lambda c: c.message(1000, age_ns=20_000_000_000)),
    "from the future": ("expired", lambda c: c.message(1000, age_ns=-20_000_000_000)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_a_counted_drop_and_the_source_lives_on(camera: Camera, name: str) -> None:
    reason, bad = BAD[name]
    camera.joined()
    before = camera.counters.balance().frames_dropped.get(reason, 0)
    camera.socket.send_multipart(bad(camera))
    frame = camera.next_after_drop(reason, before)
    assert frame.image.shape == (120, 160, 3)
    dropped = camera.counters.balance().frames_dropped
    assert dropped.get(reason, 0) == before + 1, dropped


def test_masks_in_the_header_arrive_and_lost_numbers_are_counted(camera: Camera) -> None:
    camera.joined()
    seeds = SyntheticSource().regions(0)
    camera.socket.send_multipart(camera.message(100))
    next(f for f in camera.frames if f.seq == 100)  # else it may be superseded
    camera.socket.send_multipart(camera.message(110, seeds=seeds))
    frame = next(f for f in camera.frames if f.seq == 110)
    assert frame.regions == seeds
    assert camera.counters.balance().frames_dropped["link_gap"] >= 9


BAD_MASKS = {
    "another size": {"size": [4, 6], "counts": "65O5O5O5"},
    "a wrong sum": {"size": [120, 160], "counts": "65O5O5O5"},
    "empty": {
        "size": [120, 160],
        "counts": rle.encode(np.zeros((120, 160), np.bool_)).counts,
    },
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_bad_mask_costs_its_region_and_never_the_frame(camera: Camera, name: str) -> None:
    camera.joined()
    regions = [{"rid": "bad", "mask": BAD_MASKS[name]}, {"rid": "good", "box": [1, 2, 30, 40]}]
    camera.socket.send_multipart(camera.message(1000, regions=regions))
    frame = next(f for f in camera.frames if f.seq == 1000)
    assert [seed.rid for seed in frame.regions or ()] == ["good"]
    assert [refusal.rid for refusal in frame.refused] == ["bad"]
    assert not set(camera.counters.balance().frames_dropped) - {"superseded", "link_gap"}
