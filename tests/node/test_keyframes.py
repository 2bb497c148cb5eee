"""A node with a segmenter: keyframes in the pipeline, on their thread, recorded and replayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.node.test_orders import command
from ureca.clock import Clock, ManualClock, MonotonicClock
from ureca.config import from_plain
from ureca.datatypes import Frame, RegionSeed
from ureca.errors import WeightsError
from ureca.invariants import imbalances
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.captioning.batch_captioner import CaptionWriter, InlineCaptioner
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.masks.geometry import iou
from ureca.node.node import Node
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step_runner import StepRunner
from ureca.node.recording.header import head_of
from ureca.node.recording.reader import pictures, read
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.replay import event_story, replay
from ureca.node.recording.replay_diff import differences
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeResult,
    KeyframeSegmenter,
)
from ureca.node.segmentation.worker import InlineSegmentationWorker, SegmentationWorker
from ureca.node.sources.base import Wait
from ureca.testing import EventCapture, ScriptedEngine, SyntheticSource

SOURCE = SyntheticSource(frames=40, things=3, seed=4, with_regions="never")
SEGMENTER = {"model": "scripted", "every_frames": 4}


def pointed(source: SyntheticSource) -> tuple[RegionSeed, ...]:
    """A point on each thing."""
    boxes = source.boxes_xyxy_px(0).items()
    return tuple(
        RegionSeed(rid=name, point_xy_px=((x0 + x1) / 2, (y0 + y1) / 2))
        for name, (x0, y0, x1, y1) in boxes
    )


class Played:
    """A pipeline that cuts and captions inline."""

    def __init__(
        self,
        segmenter: ScriptedSegmenter,
        *,
        worker: SegmentationWorker | None = None,
        **more: object,
    ) -> None:
        config = from_plain(NodeConfig, {"segmenter": {**SEGMENTER, **more}})
        clock, self.counters, self.events = ManualClock(1), NodeCounters(), EventCapture()
        self.pipeline = Pipeline(config, clock=clock, counters=self.counters)
        self.runner = StepRunner(
            self.pipeline,
            InlineCaptioner(CaptionWriter(ScriptedEngine(), config.caption, clock)),
            worker or InlineSegmentationWorker(KeyframeSegmenter(segmenter, config.segmenter)),
            limits=config.limits,
            clock=clock,
            emit=self.events,
        )
        self.runner.start()
        self.clock, self.segmenter = clock, segmenter

    def step(self, seq: int, seeds: tuple[RegionSeed, ...] = ()) -> None:
        frame = replace(SOURCE.frame(seq), prompts=seeds)
        self.clock.advance(ns=frame.captured_ns - self.clock.now_ns())
        self.counters.frame_in()
        assert self.runner.step(frame).failure is None

    def play(self, seeds: tuple[RegionSeed, ...], frames: int) -> None:
        for seq in range(frames):
            self.step(seq, seeds if seq == 0 else ())
        self.finish()

    def finish(self) -> None:
        self.tracks = self.pipeline.views()["cam0"][1].tracks
        self.reasons = self.runner.reasons()
        self.runner.close("source_end")
        assert not imbalances(self.counters.balance().counters(), self.events.events)

    def overlaps(self, seq: int) -> dict[str, float]:
        truth = SOURCE.masks(seq)
        return {t.rid: iou(t.mask, truth[t.rid]) for t in self.tracks if t.mask is not None}


def test_a_point_becomes_the_thing_and_keyframes_come_when_they_are_due() -> None:
    segmenter = ScriptedSegmenter()
    played = Played(segmenter)
    played.play(pointed(SOURCE), 22)
    assert segmenter.encoded == 6  # frames 0, 4, 8, 12, 16, 20
    assert played.overlaps(21).keys() == {"red", "green", "blue"}
    assert min(played.overlaps(21).values()) > 0.85
    assert played.pipeline.streams()["cam0"]["corrected"] == 18


def test_two_runs_decide_the_same() -> None:
    runs = [Played(ScriptedSegmenter()) for _ in range(2)]
    for run in runs:
        run.play(pointed(SOURCE), 15)
    first, second = ([event_story(event) for event in run.events.events] for run in runs)
    assert first == second


def test_what_is_pointed_at_between_frames_is_cut_out_of_that_very_frame() -> None:
    played = Played(ScriptedSegmenter())
    played.step(0)
    now_ns = played.clock.now_ns()
    box = SOURCE.boxes_xyxy_px(0)["green"]
    point = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    region = {"point": point, "rid": "green"}
    command(played.runner, now_ns, "region.add", stream="cam0", region=region)
    assert played.segmenter.encoded == 1
    played.step(1)
    played.finish()
    assert played.overlaps(1)["green"] > 0.9
    assert played.pipeline.streams()["cam0"]["corrected"] == 1


class BusyWorker(InlineSegmentationWorker):
    """Has each answer only `lag` polls later; `requests` are those that it got."""

    def __init__(self, lag: int) -> None:
        config = from_plain(NodeConfig, {"segmenter": SEGMENTER})
        super().__init__(KeyframeSegmenter(ScriptedSegmenter(), config.segmenter))
        self.requests: list[KeyframeRequest] = []
        self._lag, self._polls = lag, 0

    def submit(self, request: KeyframeRequest) -> None:
        self.requests.append(request)
        self._polls = 0
        super().submit(request)

    def results(self) -> list[KeyframeResult]:
        self._polls += 1
        return super().results() if self._polls > self._lag else []


@pytest.mark.parametrize("with_box", [False, True])
def test_what_is_pointed_at_while_the_segmenter_is_busy_is_asked_about_next(
    with_box: bool,
) -> None:
    worker = BusyWorker(lag=3)
    played = Played(ScriptedSegmenter(), worker=worker, every_frames=30)
    played.step(0, pointed(SOURCE)[:1])
    played.step(1)
    x0, y0, x1, y1 = SOURCE.boxes_xyxy_px(1)["blue"]
    prompt = {"box": [x0, y0, x1, y1]} if with_box else {"point": [(x0 + x1) / 2, (y0 + y1) / 2]}
    command(
        played.runner,
        played.clock.now_ns(),
        "region.add",
        stream="cam0",
        region={"rid": "blue", **prompt},
    )
    for seq in range(2, 12):
        played.step(seq)
    first, second = worker.requests  # the second at once, not after 30 frames
    assert (first.frame.seq, first.regions.keys()) == (0, {"red"})
    assert second.frame.seq < 10
    seed = second.regions["blue"].seed
    assert seed is not None
    there = SOURCE.boxes_xyxy_px(second.frame.seq)["blue"]
    if with_box:
        assert seed.box_xyxy_px is not None
        assert np.abs(np.subtract(seed.box_xyxy_px, there)).max() < 3
    else:
        assert seed.point_xy_px == pytest.approx(
            ((there[0] + there[2]) / 2, (there[1] + there[3]) / 2), abs=3
        )
    assert second.regions["red"].seed is None  # it was asked about once
    played.finish()


def test_a_region_that_is_moved_is_cut_out_at_once() -> None:
    played = Played(ScriptedSegmenter(), every_frames=30)
    played.step(0, pointed(SOURCE)[:1])
    played.step(1)
    box = SOURCE.boxes_xyxy_px(1)["green"]
    point = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    now_ns = played.clock.now_ns()
    command(
        played.runner, now_ns, "region.update", stream="cam0", rid="red", region={"point": point}
    )
    assert played.segmenter.encoded == 2
    played.step(2)
    played.finish()
    (track,) = played.tracks
    assert iou(track.mask, SOURCE.masks(2)["green"]) > 0.9


def test_everything_leaves_room_for_those_who_ask() -> None:
    played = Played(ScriptedSegmenter(), everything=True, max_regions=1)
    for seq in range(6):
        played.step(seq)
    assert [track.rid for track in played.pipeline.views()["cam0"][1].tracks] == ["r1"]
    found = played.pipeline.found_things()
    assert (found.began, found.left_out["max_regions"]) == (1, 2)
    x0, y0, x1, y1 = SOURCE.boxes_xyxy_px(5)["green"]
    now_ns, middle = played.clock.now_ns(), [(x0 + x1) / 2, (y0 + y1) / 2]
    command(played.runner, now_ns, "region.add", stream="cam0", region={"point": middle})
    played.step(6)
    played.finish()
    assert len(played.tracks) == 2


def test_everything_starts_regions_within_the_limit() -> None:
    played = Played(ScriptedSegmenter(), everything=True, grid=16, max_share=0.5)
    played.play((), 6)
    assert {t.rid for t in played.tracks} == {"r1", "r2", "r3"}
    truth = SOURCE.masks(5).values()
    assert all(max(iou(t.mask, mask) for mask in truth) > 0.85 for t in played.tracks)


def test_a_segmenter_that_fails_is_told_of_and_regions_go_on() -> None:
    played = Played(ScriptedSegmenter(failing=100))
    played.play(pointed(SOURCE), 10)
    assert len(played.overlaps(9)) == 3
    assert "scripted failure" in " ".join(played.reasons)
    healed = Played(ScriptedSegmenter(failing=1))
    healed.play(pointed(SOURCE), 10)
    assert healed.reasons == []


def test_a_node_with_a_segmenter_replays_without_it(tmp_path: Path) -> None:
    config = from_plain(
        NodeConfig,
        {
            "segmenter": SEGMENTER,
            "publish": {"events": f"ipc://{tmp_path}/e", "requests": f"ipc://{tmp_path}/r"},
        },
    )
    clock, engine, path = MonotonicClock(), ScriptedEngine(), tmp_path / "run.mcap"
    prompts = {0: pointed(SOURCE)}
    recorder = Recorder(path, clock=clock, head=head_of(config, prompts, engine.info))

    class Camera:
        is_lossless = True

        def __init__(
            self, config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait
        ) -> None:
            self.counters, self.wait = counters, wait

        def frames(self) -> Iterator[Frame]:
            for frame in SOURCE:
                if self.wait(0.02):
                    return
                self.counters.frame_in()
                yield frame

    node = Node(
        config,
        engine,
        clock=clock,
        prompts=prompts,
        sinks=[recorder],
        open_frames=lambda *args: [Camera(*args)],
        recorder=recorder,
    )
    try:
        node.start()
        assert node.wait(60)
        corrected = node.heartbeat().streams["cam0"]["corrected"]
    finally:
        node.close()
        recorder.close()
    recording = read(path)
    assert corrected >= 3
    assert sum(len(step.finished_keyframes) for step in recording.steps) >= corrected / 3
    first, second = (replay(recording, ScriptedEngine(), pictures(path)) for _ in range(2))
    assert differences(recording, first) == []
    assert first.digest == second.digest
    for step in recording.steps:
        step.finished_keyframes = []
    assert differences(recording, replay(recording, ScriptedEngine(), pictures(path)))


def test_a_node_whose_weights_are_missing_says_how_to_bring_them(tmp_path: Path) -> None:
    plain = {"model": "sam2-hiera-tiny", "folder": str(tmp_path)}
    config = from_plain(NodeConfig, {"segmenter": plain})
    with pytest.raises(WeightsError, match="ureca weights get sam2-hiera-tiny"):
        Node(config, ScriptedEngine(), clock=MonotonicClock())
