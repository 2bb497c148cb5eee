"""Segmenting keyframes: the shipped fake, the memory, everything, the threads, and SAM 2 itself."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ureca.datatypes import RegionSeed
from ureca.errors import EngineError
from ureca.models.runtime.segmentation.base import MaskPrediction, SegmenterPrompt
from ureca.models.runtime.segmentation.sam2 import DECODER, ENCODER, Sam2
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.masks.geometry import iou
from ureca.node.segmentation.automatic_masks import generate_masks
from ureca.node.segmentation.feature_memory import FeatureMemory
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeSegmenter,
    RegionPrompt,
    best_prediction,
)
from ureca.node.segmentation.worker import InlineSegmentationWorker, ThreadSegmentationWorker
from ureca.node.segmenter_config import SegmenterConfig
from ureca.protocol.rle import decode
from ureca.testing import SyntheticSource
from ureca.weights import cached

SOURCE = SyntheticSource(frames=12, things=3, seed=4)
SIZE = 120, 160


def keyframe_request(seq: int = 0, **more: object) -> KeyframeRequest:
    return KeyframeRequest(SOURCE.frame(seq), **{"regions": {}, **more})  # type: ignore[arg-type]


def test_everything_finds_each_thing_once_and_not_what_is_known() -> None:
    segmenter, truth = ScriptedSegmenter(), SOURCE.masks(0)
    config = SegmenterConfig(grid=16, max_share=0.5)
    found = generate_masks(segmenter, segmenter.encode(SOURCE.image(0)), SIZE, config)
    overlaps = [max(iou(mask, thing) for _, mask in found) for thing in truth.values()]
    assert len(found) == len(truth)
    assert min(overlaps) > 0.9
    known = [truth["red"]]
    rest = generate_masks(segmenter, SOURCE.image(0), SIZE, config, known=known)
    assert len(rest) == len(truth) - 1


def test_everything_keeps_to_the_room_that_is_left() -> None:
    config = SegmenterConfig(grid=16, max_share=0.5)
    keyframe_segmenter = KeyframeSegmenter(ScriptedSegmenter(), config)
    assert len(keyframe_segmenter.segment(keyframe_request(free_slots=2)).region_masks) == 2
    assert keyframe_segmenter.segment(keyframe_request(free_slots=0)).region_masks == ()


def test_unsure_cuts_are_no_things() -> None:
    ramp = np.tile(np.linspace(-3, 3, 160, dtype=np.float32), (120, 1))
    assert MaskPrediction(ramp, 0.99).stability < 0.6
    sharp = np.where(ramp > 0, 9.0, -9.0).astype(np.float32)
    assert MaskPrediction(sharp, 0.99).stability == 1.0


def test_the_best_cut_is_sure_and_where_it_is_expected() -> None:
    whole, part = np.zeros(SIZE, np.bool_), np.zeros(SIZE, np.bool_)
    whole[20:100, 20:140], part[20:40, 20:40] = True, True
    cuts = [
        MaskPrediction(np.where(mask, 5.0, -5.0).astype(np.float32), s)
        for mask, s in ((whole, 0.8), (part, 0.9))
    ]
    assert best_prediction(cuts, None, SIZE)[0] is cuts[1]
    assert best_prediction(cuts, whole, SIZE)[0] is cuts[0]


def test_the_memory_finds_a_thing_where_it_has_gone_and_only_there() -> None:
    segmenter, memory = ScriptedSegmenter(), FeatureMemory()
    first = segmenter.features(SOURCE.image(0))
    memory.remember(first, {"red": SOURCE.masks(0)["red"].astype(np.float32)})
    later = memory.recall(segmenter.features(SOURCE.image(11)))["red"]
    truth = cv2.resize(SOURCE.masks(11)["red"].astype(np.float32), later.shape[::-1])
    assert iou(later > 0.5, truth > 0.5) > 0.6
    without = SyntheticSource(frames=12, things=3, seed=4).image(11).copy()
    without[SOURCE.masks(11)["red"]] = without[0, 0]
    assert memory.recall(segmenter.features(without))["red"].max() < 0.5
    memory.keep(frozenset())
    assert memory.recall(first) == {}


def test_only_what_was_believed_is_remembered() -> None:
    keyframe_segmenter = KeyframeSegmenter(ScriptedSegmenter(), SegmenterConfig())
    seed = RegionSeed(box_xyxy_px=tuple(map(float, SOURCE.boxes_xyxy_px(0)["green"])))
    pointed = {"green": RegionPrompt(SOURCE.masks(0)["green"].astype(np.float32), seed=seed)}
    lost = {"green": RegionPrompt()}
    keyframe_segmenter.segment(keyframe_request(0, regions=pointed))
    assert keyframe_segmenter.segment(keyframe_request(3, regions=lost)).region_masks == ()
    keyframe_segmenter.segment(keyframe_request(0, regions=pointed))
    found = keyframe_segmenter.segment(
        keyframe_request(3, regions=lost, taken=frozenset({"green"}))
    ).region_masks
    assert iou(decode(found[0].mask), SOURCE.masks(3)["green"]) > 0.9
    assert found[0].agreement is not None
    # Another session is another world.
    other = replace(SOURCE.frame(3), session_id=b"another-session!")
    assert (
        keyframe_segmenter.segment(
            KeyframeRequest(other, lost, taken=frozenset({"green"}))
        ).region_masks
        == ()
    )


def test_a_segmenter_that_fails_costs_its_keyframe() -> None:
    segmentation_worker = InlineSegmentationWorker(
        KeyframeSegmenter(ScriptedSegmenter(failing=1), SegmenterConfig(grid=16))
    )
    segmentation_worker.submit(keyframe_request(free_slots=3))
    segmentation_worker.submit(keyframe_request(1, free_slots=3))
    first, second = segmentation_worker.results()
    assert first.failure is not None
    assert "image 1" in first.failure
    assert (second.seq, second.failure) == (1, None)
    assert second.region_masks


def test_the_thread_never_makes_its_caller_wait() -> None:
    release = threading.Event()

    class Slow(ScriptedSegmenter):
        def encode(self, image):
            assert release.wait(30)
            return super().encode(image)

    segmentation_worker = ThreadSegmentationWorker(KeyframeSegmenter(Slow(), SegmenterConfig()))
    segmentation_worker.start()
    try:
        segmentation_worker.submit(keyframe_request())
        assert segmentation_worker.results() == []
        release.set()
        until = time.monotonic() + 30
        while not (found := segmentation_worker.results()):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert [(one.stream, one.seq) for one in found] == [("cam0", 0)]
    finally:
        release.set()
        segmentation_worker.close()
    assert all(thread.name != "ureca-segment" for thread in threading.enumerate())


def test_a_segmenter_is_stopped_at_the_end_and_its_failure_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, stopped = threading.Event(), threading.Event()

    class Stoppable(ScriptedSegmenter):
        def encode(self, image):
            begun.set()
            assert stopped.wait(30)
            raise EngineError("terminated")

        def stop(self):
            stopped.set()

    segmentation_worker = ThreadSegmentationWorker(
        KeyframeSegmenter(Stoppable(), SegmenterConfig())
    )
    segmentation_worker.start()
    segmentation_worker.submit(keyframe_request())
    assert begun.wait(30)
    segmentation_worker.close()
    assert all(thread.name != "ureca-segment" for thread in threading.enumerate())
    assert not caplog.records


def test_sam2_cuts_out_what_a_box_a_point_and_a_mask_say() -> None:
    folder = cached(Sam2.name)
    if not all((folder / name).is_file() for name in (ENCODER, DECODER)):
        pytest.skip("not proven: SAM 2 itself; bring it with: ureca weights get sam2-hiera-tiny")
    sam, truth = Sam2(folder), SOURCE.masks(0)["green"]
    encoded = sam.encode(SOURCE.image(0))
    box = tuple(map(float, SOURCE.boxes_xyxy_px(0)["green"]))
    point = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    prompts = [
        SegmenterPrompt(box_xyxy_px=box),  # type: ignore[arg-type]
        SegmenterPrompt(soft=truth.astype(np.float32)),
        SegmenterPrompt(points_xy_px=(point,)),
    ]
    answers = sam.segment(encoded, prompts)
    overlaps = [max(iou(cut.mask(SIZE), truth) for cut in cuts) for cuts in answers]
    assert min(overlaps) > 0.85, overlaps
    assert sam.features(encoded).shape == (256, 64, 64)
