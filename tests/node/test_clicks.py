"""Several clicks, and clicks beside the region: on the wire, in prompt files, and as masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ureca.config import from_plain
from ureca.datatypes import Image, RegionSeed
from ureca.errors import RegionError
from ureca.models.runtime.segmentation.base import SegmenterPrompt
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.masks.prompt_to_mask import seed_mask
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeSegmenter,
    RegionPrompt,
)
from ureca.node.segmenter_config import SegmenterConfig
from ureca.node.sources.prompt_file import load_prompts
from ureca.protocol.region_codec import WirePrompt, WireRegion
from ureca.testing import SyntheticSource

CLICKED = RegionSeed(
    point_xy_px=(20.0, 20.0), more_points_xy_px=((60.0, 20.0),), not_points_xy_px=((90.0, 20.0),)
)


def draw() -> Image:
    """A red and a blue square side by side on grey, and a blue one apart."""
    image = np.full((120, 160, 3), 90, np.uint8)
    image[10:40, 10:40] = (200, 30, 30)
    image[10:40, 40:70] = (30, 60, 200)
    image[80:100, 120:150] = (30, 60, 200)
    return image


def test_clicks_survive_the_wire_and_cost_nothing_without() -> None:
    wire = WireRegion.of(CLICKED)
    again = msgspec.json.decode(msgspec.json.encode(wire), type=WireRegion)
    assert again.seed(160, 120) == CLICKED
    assert b"points" not in msgspec.json.encode(WireRegion(point=(1.0, 2.0)))
    prompt = WirePrompt.of(CLICKED)
    assert (prompt.more_points, prompt.not_points) == (((60.0, 20.0),), ((90.0, 20.0),))


def test_prompt_files_may_have_clicks(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"box": [1, 2, 30, 40], "not_points": [[5, 6]]}]))
    (prompt,) = load_prompts(str(path))[0]
    assert isinstance(prompt, RegionSeed)
    assert prompt.not_points_xy_px == ((5.0, 6.0),)


def test_clicks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RegionError, match="at most 16"):
        RegionSeed(point_xy_px=(1.0, 1.0), more_points_xy_px=((1.0, 1.0),) * 17)
    with pytest.raises(RegionError, match="finite"):
        RegionSeed(point_xy_px=(1.0, 1.0), not_points_xy_px=((1.0, float("inf")),))
    mask = SyntheticSource().regions(0)[0].mask
    with pytest.raises(RegionError, match="belong to a point or a box"):
        RegionSeed(mask=mask, not_points_xy_px=((1.0, 1.0),))
    with pytest.raises(RegionError, match=r"\(90, 20\) lies outside 80x120"):
        WireRegion.of(CLICKED).seed(80, 120)
    with pytest.raises(RegionError, match="outside the frame"):
        seed_mask(CLICKED, draw()[:, :80])
    with pytest.raises(msgspec.ValidationError, match="length <= 16"):
        msgspec.convert({"point": (1, 1), "not_points": [(1, 1)] * 17}, WireRegion)


def test_without_a_segmenter_clicks_decide_what_flood_fill_and_grabcut_take() -> None:
    image = draw()
    both = seed_mask(RegionSeed(point_xy_px=(20.0, 20.0), more_points_xy_px=((60.0, 20.0),)), image)
    assert both[15:35, 15:65].mean() > 0.95
    box = RegionSeed(box_xyxy_px=(8.0, 8.0, 72.0, 42.0))
    whole = seed_mask(box, image)
    assert whole[25, 55]
    without = seed_mask(
        RegionSeed(box_xyxy_px=box.box_xyxy_px, not_points_xy_px=((55.0, 25.0),)), image
    )
    assert not without[25, 55]
    assert without[15:35, 15:35].mean() > 0.95
    tiny = RegionSeed(box_xyxy_px=(20.0, 20.0, 22.0, 22.0), not_points_xy_px=((21.0, 21.0),))
    with pytest.raises(RegionError, match="leave nothing"):
        seed_mask(tiny, image)


def test_the_segmenter_gets_all_clicks() -> None:
    asked: list[SegmenterPrompt] = []

    class Noting(ScriptedSegmenter):
        def segment(self, encoded: Any, prompts: Any) -> Any:
            asked.extend(prompts)
            return super().segment(encoded, prompts)

    segmenter = KeyframeSegmenter(Noting(), from_plain(SegmenterConfig, {"model": "scripted"}))
    soft = np.ones((30, 40), np.float32)
    frame = SyntheticSource().frame(0)
    segmenter.segment(KeyframeRequest(frame, {"a": RegionPrompt(soft, seed=CLICKED)}))
    assert asked[0].points_xy_px == ((20.0, 20.0), (60.0, 20.0))
    assert asked[0].not_points_xy_px == ((90.0, 20.0),)
    assert asked[0].box_xyxy_px is None
