"""A detector of another project in the node: keyframes, classes, memory, boxes by the mask head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models.detector_graphs import make_detr, make_queries, make_ultralytics
from ureca.datatypes import RegionSeed
from ureca.errors import ConfigError, WeightsError
from ureca.node.masks.geometry import iou
from ureca.node.segmentation.factory import (
    open_segmentation_worker,
    open_segmenter,
    resolve_segmenter,
)
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeSegmenter,
    RegionPrompt,
)
from ureca.node.segmenter_config import SegmenterConfig
from ureca.protocol.rle import decode
from ureca.testing import SyntheticSource

SOURCE = SyntheticSource(frames=12, things=3, seed=4)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Finds red, green and blue: the colours of the source's things."""
    (tmp_path / "model.yaml").write_text("layout: ultralytics-seg\n")
    return str(make_ultralytics(tmp_path / "model.onnx", 240, 320))


def cut(config: SegmenterConfig, seq: int = 0, **more: object) -> list:
    keyframes = KeyframeSegmenter(open_segmenter(config), config)
    request = KeyframeRequest(SOURCE.frame(seq), **{"regions": {}, **more})  # type: ignore[arg-type]
    return list(keyframes.segment(request).region_masks)


def test_it_finds_things_by_itself_without_other_settings(model: str) -> None:
    truth = SOURCE.masks(0)
    found = cut(SegmenterConfig(model=model, everything=True), free_slots=8)
    best = [max(iou(decode(one.mask), mask) for one in found) for mask in truth.values()]
    assert len(found) == len(truth) == 3
    assert min(best) > 0.8


def test_a_prompt_gets_the_detection_there_and_nothing_where_there_is_none(model: str) -> None:
    y, x = np.argwhere(SOURCE.masks(0)["green"]).mean(axis=0)
    empty = np.argwhere(~np.any(list(SOURCE.masks(0).values()), axis=0))[0]
    regions = {
        "there": RegionPrompt(seed=RegionSeed(point_xy_px=(float(x), float(y)))),
        "none": RegionPrompt(seed=RegionSeed(point_xy_px=(float(empty[1]), float(empty[0])))),
    }
    found = {one.rid: one for one in cut(SegmenterConfig(model=model), regions=regions)}
    assert found.keys() == {"there"}
    assert iou(decode(found["there"].mask), SOURCE.masks(0)["green"]) > 0.8


def test_the_memory_on_its_features_finds_a_region_that_was_lost(model: str) -> None:
    config = SegmenterConfig(model=model)
    keyframes = KeyframeSegmenter(open_segmenter(config), config)
    y, x = np.argwhere(SOURCE.masks(0)["red"]).mean(axis=0)
    seed = RegionPrompt(seed=RegionSeed(point_xy_px=(float(x), float(y))))
    keyframes.segment(KeyframeRequest(SOURCE.frame(0), {"r": seed}))
    later = KeyframeRequest(SOURCE.frame(8), {"r": RegionPrompt()}, taken=frozenset({"r"}))
    (found,) = keyframes.segment(later).region_masks
    assert iou(decode(found.mask), SOURCE.masks(8)["red"]) > 0.8
    assert found.presence > 0.2


def test_classes_are_checked_against_those_of_the_file(model: str) -> None:
    config = SegmenterConfig(model=model, everything=True, include_classes=("reed",))
    with pytest.raises(ConfigError, match=r"such as red; got 'reed'"):
        open_segmentation_worker(config)


def test_boxes_without_a_bundle_are_cut_out_by_grabcut(tmp_path: Path) -> None:
    text = "{layout: rf-detr, input: {mean: [0, 0, 0], std: [1, 1, 1]}}"
    (tmp_path / "boxes.yaml").write_text(text)
    path = make_detr(tmp_path / "boxes.onnx", 256, masks=False)
    found = cut(SegmenterConfig(model=str(path), everything=True), free_slots=8)
    assert len(found) == 3


def test_the_bundle_of_the_captioner_is_kept_for_boxes(tmp_path: Path) -> None:
    config = resolve_segmenter(SegmenterConfig(model="a.onnx"), tmp_path)
    assert config.folder == str(tmp_path)
    own = SegmenterConfig(model="a.onnx", folder="mine")
    assert resolve_segmenter(own, tmp_path) is own


def test_names_and_layouts_that_mean_nothing_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected auto, none, nano.*PATH\.onnx.*got 'yolo'"):
        SegmenterConfig(model="yolo")
    with pytest.raises(ConfigError, match="describes a model of another project"):
        SegmenterConfig(model="nano", layout="a.yaml")
    path = make_queries(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="an ONNX file does not tell"):
        open_segmenter(SegmenterConfig(model=str(path)))
    pytest.importorskip("transformers")
    with pytest.raises(WeightsError, match="no model of transformers"):
        open_segmenter(SegmenterConfig(model=f"transformers:{tmp_path}"))
