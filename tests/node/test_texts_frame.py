"""Texts asked of all that a segmenter cuts out, and of a whole node with real sockets; recorded."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.node.inputs_rig import until
from tests.ports import free_port
from ureca.client.client import Client
from ureca.client.frame_publisher import FramePublisher
from ureca.clock import ManualClock, MonotonicClock
from ureca.config import from_plain
from ureca.datatypes import TextPrompt
from ureca.errors import RequestError
from ureca.invariants import imbalances
from ureca.models.runtime.grounding import PLAIN_WEIGHTS, Grounder
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.captioning.batch_captioner import CaptionWriter, InlineCaptioner
from ureca.node.captioning.grounding import TextGrounder
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.masks.geometry import iou
from ureca.node.node import Node
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step import FindRequest
from ureca.node.pipeline.step_runner import StepRunner
from ureca.node.recording.header import head_of
from ureca.node.recording.reader import pictures, read
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.replay import replay
from ureca.node.recording.replay_diff import differences
from ureca.node.segmentation.keyframe_segmenter import KeyframeSegmenter
from ureca.node.segmentation.worker import InlineSegmentationWorker
from ureca.protocol import rle
from ureca.protocol.events import TextFound
from ureca.protocol.region_codec import from_wire_rle
from ureca.protocol.requests import FindArgs
from ureca.protocol.results import Found
from ureca.testing import EventCapture, ScriptedEngine, Step, SyntheticSource

SOURCE = SyntheticSource(frames=60, things=3, seed=4, with_regions="never")
SEGMENTER = {"model": "scripted", "every_frames": 4, "min_share": 0.002}


class Cut:
    """A pipeline that cuts, captions and grounds in the caller."""

    def __init__(self, *, failing: int = 0, **more: Any) -> None:
        self.config = from_plain(NodeConfig, {"segmenter": SEGMENTER, **more})
        self.clock, self.counters, self.events = ManualClock(1), NodeCounters(), EventCapture()
        engine = ScriptedEngine()
        self.pipeline = Pipeline(self.config, clock=self.clock, counters=self.counters)
        self.segmenter = ScriptedSegmenter(failing=failing)
        self.runner = StepRunner(
            self.pipeline,
            InlineCaptioner(
                CaptionWriter(engine, self.config.caption, self.clock),
                TextGrounder(engine, Grounder(engine, PLAIN_WEIGHTS), self.clock),
            ),
            InlineSegmentationWorker(KeyframeSegmenter(self.segmenter, self.config.segmenter)),
            limits=self.config.limits,
            clock=self.clock,
            emit=self.events,
        )
        self.runner.start()

    def play(self, seqs: range, source: SyntheticSource = SOURCE, **more: Any) -> None:
        for seq in seqs:
            frame = replace(source.frame(seq), **more)
            self.clock.advance(ns=frame.captured_ns - self.clock.now_ns())
            self.counters.frame_in()
            assert self.runner.step(frame).failure is None

    def ask(self, **args: Any) -> list[Any]:
        said: list[Any] = []
        limit_ns = self.clock.now_ns() + 10**10
        self.runner.submit(FindRequest(FindArgs(**args), said.append, said.append, limit_ns))
        return said

    def tracks(self) -> dict[str, Any]:
        tracks = self.pipeline.views()["cam0"][1].tracks
        return {track.rid: track for track in tracks if track.mask is not None}

    def finish(self) -> None:
        self.runner.close("source_end")
        assert not imbalances(self.counters.balance().counters(), self.events.events)


def test_a_find_looks_at_the_whole_frame_and_starts_nothing() -> None:
    node = Cut()
    node.play(range(1))
    said = node.ask(text="a blue thing", masks=True)
    node.play(range(1, 4))
    (answer,) = said
    (blue,) = answer["regions"]
    assert "rid" not in blue
    code = from_wire_rle(type("Mask", (), {**blue["mask"]})())  # its size and counts
    assert iou(rle.decode(code), SOURCE.masks(blue["seq"])["blue"]) > 0.95
    assert node.tracks() == {}
    assert node.segmenter.encoded == 1  # nothing is cut when nobody asks
    nothing = node.ask(text="a purple mug")
    node.play(range(4, 8))
    assert (nothing[0]["regions"], nothing[0]["by"]) == ([], "likelihood")
    node.finish()


def test_a_text_prompt_starts_a_region_where_the_thing_is_by_now() -> None:
    node = Cut()
    node.play(range(1), texts=(TextPrompt("a blue thing"), TextPrompt("the red thing", label="r")))
    node.play(range(1, 8))
    truth = SOURCE.masks(7)
    tracks = {track.label: track for track in node.tracks().values()}
    assert set(tracks) == {"a blue thing", "r"}
    assert iou(tracks["a blue thing"].mask, truth["blue"]) > 0.7
    assert iou(tracks["r"].mask, truth["red"]) > 0.7
    found = [e for e in node.events.of("text.found") if isinstance(e, TextFound)]
    assert {e.text for e in found} == {"a blue thing", "the red thing"}
    assert {e.regions[0].rid for e in found} == set(node.tracks())
    node.play(range(8, 12), texts=(TextPrompt("a blue thing", label="again"),))
    assert len(node.tracks()) == 2  # it is followed already: named, not started twice
    node.finish()


def test_a_standing_text_is_asked_on_keyframes_until_the_thing_comes() -> None:
    node = Cut(grounding={"texts": ["a blue thing"]})
    node.play(range(12), replace(SOURCE, things=2))
    assert node.events.of("text.found") == []
    asked = node.segmenter.encoded
    assert asked >= 3  # a keyframe on every fourth frame
    node.play(range(12, 24))
    (found,) = node.events.of("text.found")
    assert iou(node.tracks()[found.regions[0].rid].mask, SOURCE.masks(23)["blue"]) > 0.7  # type: ignore[union-attr]
    node.finish()


def test_a_segmenter_that_fails_ends_the_find_and_not_the_standing_text() -> None:
    node = Cut(failing=2, grounding={"texts": ["a blue thing"]})
    node.play(range(1))
    said = node.ask(text="a blue thing")
    node.play(range(1, 20))
    assert [getattr(one, "code", "") for one in said] == ["ENGINE"]
    assert len(node.events.of("text.found")) == 1
    node.finish()


def test_tracks_only_when_asked_for() -> None:
    node = Cut()
    node.play(range(1))
    said = node.ask(text="a blue thing", where="tracks")
    node.play(range(1, 3))
    assert [one.code for one in said] == ["NO_MODEL"]
    node.finish()


# --- a whole node ---------------------------------------------------------------------------------


class Camera(threading.Thread):
    """A sender with masks at 30 frames a second; `things` is how many it shows, `texts` go out
    with the next frame.
    """

    def __init__(self, address: str, things: int = 3) -> None:
        super().__init__()
        self.address, self.things, self.texts = address, things, tuple[TextPrompt, ...]()
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        with FramePublisher(self.address, stream="cam0") as camera:
            seq = 0
            while not self.ended.wait(1 / 30):
                source = SyntheticSource(things=self.things)
                texts, self.texts = self.texts, ()
                camera.send(source.image(seq), regions=source.regions(seq), prompts=texts)
                seq += 1


class Live:
    """A node between a camera and a client."""

    def __init__(self, folder: Path, hook: Any, camera: Camera, **plain: Any) -> None:
        addresses = {"events": f"ipc://{folder}/e", "requests": f"ipc://{folder}/r"}
        self.config = from_plain(
            NodeConfig,
            {
                "source": {"uri": f"zmq+{camera.address}"},
                "publish": {**addresses, "heartbeat_s": 0.1},
                **plain,
            },
        )
        self.engine, self.capture = ScriptedEngine(hook=hook), EventCapture()
        clock = MonotonicClock()
        self.path = folder / "run.mcap"
        self.recorder = Recorder(
            self.path, clock=clock, head=head_of(self.config, {}, self.engine.info)
        )
        self.node = Node(
            self.config,
            self.engine,
            clock=clock,
            grounder=Grounder(self.engine, PLAIN_WEIGHTS),
            sinks=[self.capture, self.recorder],
            recorder=self.recorder,
        )
        self.node.start()
        self.is_closed = False
        self.client = Client.connect(*addresses.values(), timeout_s=20)

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.client.close()
        self.node.close()
        self.recorder.close()
        found = imbalances(self.node.balance().counters(), self.capture.events)
        assert not found, found


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def start(hook: Any = lambda call, token: "ok", things: int = 3, **plain: Any) -> Any:
            camera = Camera(f"tcp://127.0.0.1:{free_port()}", things)
            stack.callback(lambda: (camera.ended.set(), camera.join()))
            running = Live(tmp_path, hook, camera, **plain)
            stack.callback(running.close)
            for _ in running.client.events({"caption.final"}, timeout_s=20):
                break
            return running, camera

        yield start


def rids(found: tuple[Found, ...]) -> list[str | None]:
    return [one.rid for one in found]


def test_finds_prompts_and_standing_texts_through_real_sockets_replay_equal(live: Any) -> None:
    running, camera = live(things=2, grounding={"texts": ["a blue thing"]})
    client = running.client
    assert client.hello().find_by == "likelihood"
    found = client.find("a red thing", masks=True)
    assert (found.by, rids(found.regions)) == ("likelihood", ["red"])
    assert found.regions[0].mask is not None
    assert client.find("a purple mug").regions == ()
    added = client.add_text("cam0", "the green thing", label="leaf")
    assert (added.rid, added.none is not None) == ("green", True)
    assert client.add_text("cam0", "a pink mug").rid == ""
    assert client.add_text("cam0", "a black thing", standing=True).standing

    def prompted() -> bool:  # a frame may be dropped, and its prompts with it
        camera.texts = (TextPrompt("a red thing", label="mine"),)
        time.sleep(0.2)
        return len(running.capture.of("text.found")) > 1

    until(prompted, "the prompt was answered")
    camera.things = 3
    until(
        lambda: {"a blue thing"} <= {e.text for e in running.capture.of("text.found")},
        "the standing text was found",
    )
    labels = {region.rid: region.label for region in client.regions("cam0")}
    assert labels == {"red": "mine", "green": "leaf", "blue": "a blue thing"}
    absent = {e.text for e in running.capture.of("text.absent")}
    assert absent >= {"a pink mug", "a black thing"}
    running.node.stop()
    assert running.node.wait(30)
    running.close()
    recording = read(running.path)
    first, second = (
        replay(recording, Deaf(), pictures(recording.path)) for _ in range(2)
    )  # an engine that cannot score: a replay needs no weights
    assert differences(recording, first) == []
    assert first.digest == second.digest
    assert len(first.groundings) > 5
    assert first.balance is not None
    assert first.balance.closed
    for step in recording.steps:
        step.finished_groundings = []
    assert differences(recording, replay(recording, Deaf(), pictures(recording.path)))


class Deaf(ScriptedEngine):
    def score(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a replay reads the answers")


def test_finds_and_captions_share_the_captioner_under_load(live: Any) -> None:
    def slowly(call: int, token: int) -> Step:
        time.sleep(0.01)
        return "ok"

    always = {"min_interval_s": 0.0, "refresh_s": 0.1, "recheck": False}
    running, _ = live(slowly, scheduler=always, grounding={"texts": ["a mug", "a pink cup"]})
    before = len(running.capture.of("caption.final"))
    answers, refused = [], []

    def once(client: Client) -> None:
        try:
            answers.append(rids(client.find("a green thing").regions))
        except RequestError as error:
            refused.append(error.code)

    def ask() -> None:
        publish = running.config.publish
        with Client.connect(publish.events, publish.requests, timeout_s=20) as client:
            for _ in range(15):
                once(client)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for one in askers:
        one.start()
    for one in askers:
        one.join(60)
    assert set(map(tuple, answers)) == {("green",)}
    assert len(answers) + len(refused) == 60
    assert set(refused) <= {"BUSY"}
    assert len(running.capture.of("caption.final")) >= before + 3  # captions went on
    assert running.node.balance().texts_ended["absent"] >= 2  # and so did the standing texts


def test_a_hanging_engine_costs_the_find_and_is_named(live: Any) -> None:
    running, _ = live(scheduler={"deadline_s": 1.0})
    go, score = threading.Event(), running.engine.score

    def hang(*args: Any, **more: Any) -> Any:
        go.wait(20)
        return score(*args, **more)

    running.engine.score = hang
    with pytest.raises(RequestError, match=r"ENGINE|DEADLINE"):
        running.client.find("a red thing", deadline_s=1.5)
    until(lambda: any("captioner" in why for why in running.node.reasons()), "it is named")
    go.set()
    until(lambda: not running.node.reasons(), "it goes on")
    assert rids(running.client.find("a red thing").regions) == ["red"]
