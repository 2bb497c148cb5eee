"""Clips of one scripted change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ureca.models.data.synthetic.objects.shapes import FloatArray
from ureca.models.data.synthetic.rendering import changes
from ureca.models.data.synthetic.scenes.staging import CHANGES, Change, prepare_change


def _after(change: Change, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Places before and after, and upward axes after, of the items that a change is about."""
    world, plan = prepare_change(change, seed=seed)
    start = changes.record_start(world, plan)
    before = np.array([world.pose(item)[0] for item in plan.items])
    changes.apply_change(world, plan, start, 1.0)
    poses = [world.pose(item) for item in plan.items]
    return before, np.array([p[0] for p in poses]), np.array([p[1][:, 2] for p in poses])


def test_two_things_change_places() -> None:
    before, after, _ = _after("swap", 3)
    np.testing.assert_allclose(after[:, :2], before[::-1, :2], atol=1e-6)
    np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-6)


def test_one_thing_moves_away_and_stays_upright() -> None:
    before, after, up = _after("move", 3)
    assert np.hypot(*(after - before)[0, :2]) > 0.15
    assert up[0, 2] > 0.9


def test_a_bottle_ends_up_on_its_side_on_the_table() -> None:
    _, after, up = _after("tip", 3)
    assert abs(up[0, 2]) < 0.05
    assert 0.02 < after[0, 2] < 0.06


def test_a_drawer_slides_out_and_nothing_else_moves() -> None:
    world, plan = prepare_change("open", seed=3)
    start = changes.record_start(world, plan)
    changes.apply_change(world, plan, start, 1.0)
    moved = np.linalg.norm(world.model.geom_pos - start.geoms, axis=1)
    assert (moved > 0).sum() == 2
    assert moved.max() == pytest.approx(plan.pull)


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_seed_gives_the_same_plan(change: Change) -> None:
    assert prepare_change(change, seed=5)[1] == prepare_change(change, seed=5)[1]


def test_a_clip_tells_what_changed(gl: None, tmp_path: Path) -> None:
    changes.make_change(tmp_path, "tip", seed=1, frames=3)
    truth = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    assert truth["frames"] == 3
    event = truth["event"]
    (node,) = event["regions"]
    assert "lying" not in event["before"][node]
    assert "lying on its side" in event["after"][node]
    prompts = json.loads((tmp_path / "prompts.json").read_text(encoding="utf-8"))
    assert node in {prompt["rid"] for prompt in prompts}
    assert {region["rid"] for region in truth["regions"]} == {p["rid"] for p in prompts}
    assert (tmp_path / "tip.mp4").stat().st_size > 0
