"""The demo clip that ships with the project, and the script it was made from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ureca.models.data.synthetic.objects import palette
from ureca.models.data.synthetic.rendering.clip import FRAME_SIZE
from ureca.models.data.synthetic.rendering.video import (
    CAST,
    compute_gripper_place,
    make_camera,
    make_demo_scene,
)

# pycocotools' decode is written for an older numpy; its result is right all the same.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DEMO = Path(__file__).parents[2] / "configs" / "demo"


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    """The clip's ground truth."""
    return dict(json.loads((DEMO / "truth.json").read_text(encoding="utf-8")))


def test_prompts_are_visible_regions_of_the_first_frame(truth: dict[str, Any]) -> None:
    prompts = json.loads((DEMO / "prompts.json").read_text(encoding="utf-8"))
    first = {region["rid"]: region["pixels"][0] for region in truth["regions"]}
    assert 10 <= len(prompts) <= 18
    for prompt in prompts:
        assert prompt["frame"] == 0
        assert re.fullmatch(r"[a-z0-9_-]{1,64}", prompt["rid"])
        mask = np.asarray(coco_mask.decode(prompt["mask"]))
        assert mask.shape == FRAME_SIZE
        assert mask.sum() == first[prompt["rid"]] >= 250


def test_the_clip_has_the_frames_it_should(truth: dict[str, Any]) -> None:
    clip = cv2.VideoCapture(str(DEMO / "tabletop.mp4"))
    assert round(clip.get(cv2.CAP_PROP_FPS)) == truth["fps"]
    count = 0
    while clip.grab():
        count += 1
    assert count == truth["frames"]
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 3_000_000


def test_one_thing_hides_and_comes_back_and_one_is_pushed(truth: dict[str, Any]) -> None:
    regions = {region["rid"]: region for region in truth["regions"]}
    hidden = np.array(regions["yellow-cube"]["pixels"]) == 0
    assert hidden.sum() >= truth["fps"]
    assert not hidden[0]
    assert not hidden[-1]
    boxes = regions["red-mug"]["boxes"]
    assert abs(boxes[0][0] - boxes[-1][0]) > 100


def test_the_cast_wears_held_back_colours() -> None:
    items = [placement.item for placement in make_demo_scene().placements]
    assert len(items) == len(CAST)
    pairs = {(item.look.colour, item.kind) for item in items}
    assert len(pairs & palette.HELD_BACK_PAIRS) >= 5


def test_camera_and_gripper_move_gently() -> None:
    times = np.arange(0.0, 12.0, 1 / 15)
    azimuths = np.array([make_camera(float(time)).azimuth for time in times])
    places = np.array([compute_gripper_place(float(time)) for time in times])
    assert np.abs(np.diff(azimuths)).max() < 1.0
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 0.02
