"""Record, replay, cut, fill the disk: with the scripted engine and real threads."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.node.conftest import Scene
from ureca.client.client import Client
from ureca.clock import Clock, MonotonicClock
from ureca.config import from_plain
from ureca.datatypes import Frame, Image, RegionSeed
from ureca.errors import ConfigError, EngineError, RequestError, SourceError
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.node import Node
from ureca.node.recording.cli import main
from ureca.node.recording.header import head_of
from ureca.node.recording.lossless_images import to_png
from ureca.node.recording.reader import Recording, pictures, read
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.replay import event_story, replay
from ureca.node.recording.replay_diff import differences
from ureca.node.sources.base import FrameSource, Wait
from ureca.protocol.events import CaptionFinal, CaptionStart, CaptionTerminal, RecordingStopped
from ureca.protocol.rle import encode
from ureca.testing import EventCapture, ScriptedEngine, ScriptedFrame, Step, SyntheticSource

CONFIG = {
    "scheduler": {"refresh_s": 0.1, "min_interval_s": 0.05, "deadline_s": 3.0},
    "publish": {"heartbeat_s": 0.1},
}


class Camera:
    """Frames as they come from a list, every 20 ms."""

    def __init__(
        self,
        frames: list[Frame],
        clock: Clock,
        counters: NodeCounters,
        wait: Wait,
        *,
        is_lossless: bool,
    ) -> None:
        self.is_lossless = is_lossless
        self.list, self.clock, self.counters, self.wait = frames, clock, counters, wait

    def frames(self) -> Iterator[Frame]:
        for frame in self.list:
            if self.wait(0.02):
                return
            self.counters.frame_in()
            yield frame


def troubled(call: int, token: int) -> Step:
    """The first batch fails half-way, the third takes longer than its deadline."""
    time.sleep(3.1 if (call, token) == (2, 1) else 0.002)
    return "raise" if (call, token) == (0, 1) else "ok"


def record(
    folder: Path,
    frames: list[Frame],
    *,
    while_running: Callable[[Client], None] = lambda client: None,
    prompts: dict[int, tuple[RegionSeed, ...]] | None = None,
    is_lossless: bool = False,
    engine: ScriptedEngine | None = None,
    sections: dict[str, dict[str, object]] | None = None,
    **options: object,
) -> tuple[Path, Node, EventCapture]:
    """A whole node with threads and sockets, recorded; `sections` replace those of `CONFIG`."""
    path, clock, capture = folder / "run.mcap", MonotonicClock(), EventCapture()
    addresses = {"events": f"ipc://{folder}/e", "requests": f"ipc://{folder}/r"}
    plain = {**CONFIG, **(sections or {}), "publish": {**CONFIG["publish"], **addresses}}
    config = from_plain(NodeConfig, plain)
    engine = engine or ScriptedEngine(hook=troubled)
    recorder = Recorder(
        options.pop("path", path),
        clock=clock,
        head=head_of(config, prompts or {}, engine.info),
        **options,
    )

    def opened(
        config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait
    ) -> list[FrameSource]:
        return [Camera(frames, clock, counters, wait, is_lossless=is_lossless)]

    node = Node(
        config,
        engine,
        clock=clock,
        prompts=prompts,
        sinks=[capture, recorder],
        open_frames=opened,
        recorder=recorder,
    )
    try:
        node.start()
        with Client.connect(*addresses.values(), timeout_s=20) as client:
            while_running(client)
        assert node.wait(60)
    finally:
        node.close()
        recorder.close()
    return path, node, capture


def again(recording: Recording) -> object:
    logging.getLogger("ureca").setLevel("CRITICAL")
    return replay(recording, ScriptedEngine(), pictures(recording.path))


def test_a_live_run_replays_bit_for_bit_twice(tmp_path: Path) -> None:
    scene = Scene()
    seeds = (RegionSeed(rid="disc", mask=encode(scene.mask(0))),)
    path, node, capture = record(
        tmp_path, [scene.frame(seq) for seq in range(300)], prompts={0: seeds}
    )
    assert node.counters.balance().closed
    recording = read(path)
    assert recording.loss is None
    first, second = again(recording), again(recording)
    assert differences(recording, first) == []
    assert first.digest == second.digest
    assert first.balance.closed
    ends = {type(event).__name__ for event in first.events}
    assert {"CaptionFinal", "CaptionError", "CaptionAbort"} <= ends
    said = [e.text for e in capture.events if isinstance(e, CaptionFinal)]
    assert sorted(e.text for e in first.events if isinstance(e, CaptionFinal)) == sorted(said)
    assert len(first.tracks) == node.counters.balance().frames_processed


class FailingEncode(ScriptedEngine):
    """The first picture that it gets cannot be encoded."""

    def encode(self, image: Image) -> ScriptedFrame:
        encoded = super().encode(image)
        if self.encoded == 1:
            raise EngineError("no picture today")
        return encoded


def test_a_batch_that_never_ran_is_not_taken_for_the_next_run(tmp_path: Path) -> None:
    """Its requests are too late before the engine sees them; the batch after it fails in `encode`,
    so its run names no request either.
    """
    first = SyntheticSource(things=2).frame(0)
    frames = [replace(first, seq=seq) for seq in range(200)]

    def describe(client: Client) -> None:
        for _ in client.events({"caption.abort"}, timeout_s=20):
            break
        with pytest.raises(RequestError, match="no picture today"):
            client.describe("red", stream="cam0")
        assert client.describe("red", stream="cam0").text == "a red thing"

    path, node, _ = record(
        tmp_path,
        frames,
        engine=FailingEncode(),
        while_running=describe,
        sections={"scheduler": {"deadline_s": 1e-6}},
    )
    assert node.counters.balance().closed
    recording = read(path)
    replayed = again(recording)
    assert differences(recording, replayed) == []
    told, said = (
        [event_story(e) for e in events if isinstance(e, CaptionStart | CaptionTerminal)]
        for events in (recording.events, replayed.events)
    )
    assert said == told
    assert {story["ev"] for story in told} == {"caption.abort"}


def test_given_regions_deadlines_and_requests_replay_too(tmp_path: Path) -> None:
    source = SyntheticSource(frames=200, things=4)

    def ask(client: Client) -> None:
        for _ in client.events({"track.new"}, timeout_s=20):
            break
        assert client.describe("red", stream="cam0").text
        with pytest.raises(RequestError, match="NOT_FOUND"):
            client.describe("nobody", stream="cam0")
        box = {"box": [10, 10, 50, 40]}
        added = client.request("region.add", {"stream": "cam0", "region": box})
        assert client.request("region.list", {"stream": "cam0"})["regions"]
        policy = {"stream": "cam0", "policy": {"style": "long"}}
        client.request("policy.set", policy)
        client.request("region.remove", {"stream": "cam0", "rid": added["rid"]})
        with pytest.raises(RequestError, match="NOT_FOUND"):
            client.request("region.remove", {"stream": "cam0", "rid": "nobody"})
        with pytest.raises(RequestError, match="NO_STREAM"):
            client.describe("red", stream="cam7")
        picture = np.zeros((40, 50, 3), np.uint8)
        seed = RegionSeed(box_xyxy_px=(5, 5, 20, 20))
        assert client.describe(seed, image=picture).text == "a black thing"

    path, _, _ = record(tmp_path, list(source), while_running=ask)
    recording = read(path)
    replayed = again(recording)
    assert differences(recording, replayed) == []
    assert len(recording.replies) == 2 == len(replayed.replies)
    asked = [request["op"] for step in recording.steps for request in step.requests]
    assert asked.count("describe") == 3
    assert sum(len(step.answers) for step in recording.steps) == 5


def test_a_difference_is_seen(tmp_path: Path) -> None:
    path, _, _ = record(tmp_path, list(SyntheticSource(frames=20)))
    recording = read(path)
    other = ((number, image[:, :, ::-1].copy()) for number, image in pictures(path))
    found = differences(recording, replay(recording, ScriptedEngine(), other))
    assert any("red thing" in line for line in found)
    assert len(found) <= 10


class Whole(tuple[Path, Recording]):
    """A recording and where it is; hypothesis need not print all of it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Whole({self[0]})"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    frames = list(SyntheticSource(frames=25))
    path, _, _ = record(folder, frames, chunk_bytes=2048, is_lossless=True)
    return Whole((path, read(path)))


HEAD_BYTES = 2600
"""More than magic, header and configuration take."""


@settings(max_examples=25)
@given(share=st.floats(0, 1))
@example(share=0.0)
@example(share=1.0)
@example(share=0.999999)
def test_cut_anywhere_it_is_used_up_to_its_last_whole_chunk(
    whole: tuple[Path, Recording], share: float
) -> None:
    path, complete = whole
    stored = path.read_bytes()
    size = int(share * len(stored))
    cut = path.with_name("cut.mcap")
    cut.write_bytes(stored[:size])
    try:
        found = read(cut)
    except SourceError:  # cut before its head was whole: there is nothing to replay
        assert size < HEAD_BYTES
        return
    if size < len(stored):
        assert found.loss is not None
        assert f"of {size}" in found.loss.text(cut)
    assert found.steps == complete.steps[: len(found.steps)]
    assert found.engine_runs == complete.engine_runs[: len(found.engine_runs)]
    assert found.events == complete.events[: len(found.events)]
    assert differences(found, again(found)) == []


@given(at=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_a_loss_and_never_a_crash(
    whole: tuple[Path, Recording], at: float, byte: int
) -> None:
    stored = bytearray(whole[0].read_bytes())
    stored[round(at * (len(stored) - 1))] = byte
    changed = whole[0].with_name("changed.mcap")
    changed.write_bytes(stored)
    try:
        read(changed)
    except SourceError as error:
        assert str(changed) in str(error)  # noqa: PT017  (either outcome is fine)


def test_it_is_a_file_that_others_read(whole: tuple[Path, Recording]) -> None:
    from mcap.reader import make_reader

    with whole[0].open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        schemas = {schema.name for schema in reader.get_summary().schemas.values()}
        assert {"foxglove.CompressedImage", "foxglove.ImageAnnotations"} <= schemas
        seen = {channel.topic: json.loads(m.data) for _, channel, m in reader.iter_messages()}
    assert seen["/cam0/image"]["format"] == "png"
    drawn = seen["/cam0/outlines"]
    assert all(loop["type"] == 2 and len(loop["points"]) > 2 for loop in drawn["points"])
    assert any("thing" in text["text"] for text in drawn["texts"])
    assert seen["/cam0/tracks"]["tracks"][0]["mask"]["counts"]


def test_a_full_disk_ends_the_recording_and_not_the_node(tmp_path: Path) -> None:
    # Writing to /dev/full fails as a full disk does, once the first block is written.
    frames = list(SyntheticSource(frames=80))
    seen: list[object] = []

    def watch(client: Client) -> None:
        seen.extend(client.events({"recording.stopped"}, timeout_s=1))
        seen.append(client.health())

    with pytest.raises(ConfigError, match="cannot record"):
        record(tmp_path, frames, path=Path("/dev/full"))
    _, node, capture = record(
        tmp_path,
        frames,
        while_running=watch,
        is_lossless=True,
        chunk_bytes=2048,
        open_file=lambda path: FullDisk(path, 30_000),
    )
    assert node.counters.balance().closed
    (told,) = [e for e in capture.events if isinstance(e, RecordingStopped)]
    assert told.reason == node.reasons()[0]
    assert told.lost > 0
    assert node.heartbeat().counters["record_lost_message"] > 0
    assert "No space left" in node.reasons()[0]
    assert node.counters.balance().frames_processed == len(frames)


def FullDisk(path: Path, room: int):  # noqa: N802  (stands in for a class)
    """A file that takes `room` bytes."""
    file = path.open("wb", buffering=0)
    write = file.write

    class Limited:
        def write(self, data: bytes) -> int:
            if file.tell() + len(data) > room:
                raise OSError(28, "No space left on device")
            return write(data)

        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

    return Limited()


def test_a_slow_disk_costs_pictures_and_is_counted(tmp_path: Path) -> None:
    path, node, _ = record(tmp_path, list(SyntheticSource(frames=30)), max_pending_bytes=0)
    lost = node.heartbeat().counters["record_lost_frame"]
    assert lost == node.counters.balance().frames_processed
    recording = read(path)
    replayed = again(recording)
    assert "not recorded" in replayed.gap
    assert differences(recording, replayed) == []


def test_the_command_says_whether_it_is_equal(
    whole: tuple[Path, Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "again.jsonl"
    options = [str(whole[0]), "--runs", "2", "--events", str(events)]
    assert main(options, engine_of=lambda folder: ScriptedEngine()) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["equal"]
    assert report["runs_equal"]
    assert len(events.read_text().splitlines()) > report["captions"] > 0
    with pytest.raises(SourceError, match="cannot read"):
        main(["nowhere.mcap"])


def test_pictures_come_back_as_they_were(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (37, 53, 3), np.uint8)
    assert (decode_picture(to_png(image)) == image).all()
