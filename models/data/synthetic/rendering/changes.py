"""Renders clips of one scripted change: two items swap, one moves, a drawer opens, a bottle tips
over.

The clips measure how fast captions follow a change. In addition to the demo clip's files,
`truth.json` has an `event`: what changes, from when to when, and captions before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ureca.models.data.synthetic.objects.shapes import FloatArray
from ureca.models.data.synthetic.rendering.clip import (
    FRAME_SIZE,
    FRAMES_PER_SECOND,
    ClipFrame,
    ClipPrompt,
    list_pieces,
    write_clip,
)
from ureca.models.data.synthetic.rendering.render import Ids, Painter, SceneCamera
from ureca.models.data.synthetic.rendering.views import RenderedRegion, RenderedView, describe_view
from ureca.models.data.synthetic.scenes.mujoco_import import mujoco
from ureca.models.data.synthetic.scenes.staging import Change, ScenePlan, prepare_change
from ureca.models.data.synthetic.scenes.world import World

BEGIN_S: Final = 2.0
END_S: Final = 3.5
SECONDS: Final = 6.0

_LIFTS: Final = (0.14, 0.24)
"""How high (m) things are carried; two that swap must not meet."""


@dataclass(frozen=True)
class Start:
    """How things stood before the change."""

    poses: tuple[FloatArray, ...]
    geoms: FloatArray


def _find_joint(world: World, item: int) -> slice:
    """Where an item's position and quaternion are in qpos."""
    joint = world.model.body(f"item{item}").jntadr[0]
    first = int(world.model.jnt_qposadr[joint])
    return slice(first, first + 7)


def record_start(world: World, plan: ScenePlan) -> Start:
    """Record the positions before the change."""
    poses = tuple(world.data.qpos[_find_joint(world, item)].copy() for item in plan.items)
    return Start(poses, world.model.geom_pos.copy())


def _carry(world: World, plan: ScenePlan, start: Start, share: float) -> None:
    for item, goal, pose, lift in zip(plan.items, plan.goals, start.poses, _LIFTS, strict=False):
        at = pose.copy()
        at[:2] += share * (np.array(goal) - pose[:2])
        at[2] += lift * float(np.sin(np.pi * share))
        world.data.qpos[_find_joint(world, item)] = at


def _tip_over(world: World, plan: ScenePlan, start: Start, share: float) -> None:
    """Turn over the edge of the foot on which the item stands."""
    item, pose = plan.items[0], start.poses[0]
    way = np.array([*plan.direction, 0.0])
    axis, radius = np.cross([0.0, 0.0, 1.0], way), world.scene.placements[item].item.radius
    turn, both, arm = np.zeros(4), np.zeros(4), np.zeros(3)
    mujoco.mju_axisAngle2Quat(turn, axis, share * np.pi / 2)
    mujoco.mju_mulQuat(both, turn, pose[3:])
    mujoco.mju_rotVecQuat(arm, -radius * way, turn)
    world.data.qpos[_find_joint(world, item)] = [*(pose[:3] + radius * way + arm), *both]


def _pull(world: World, plan: ScenePlan, start: Start, share: float) -> None:
    pieces = [piece for part in plan.parts for piece in list_pieces(world, plan.items[0], part)]
    for piece in pieces:
        geom = world.model.geom(f"piece{piece}").id
        world.model.geom_pos[geom] = start.geoms[geom] - [0.0, plan.pull * share, 0.0]


def apply_change(world: World, plan: ScenePlan, start: Start, share: float) -> None:
    """Move everything to its place when a share (0..1) of the change is done."""
    step = {"swap": _carry, "move": _carry, "tip": _tip_over, "open": _pull}[plan.change]
    step(world, plan, start, share)
    mujoco.mj_forward(world.model, world.data)


def _compute_share(time: float) -> float:
    share = min(1.0, max(0.0, (time - BEGIN_S) / (END_S - BEGIN_S)))
    return share * share * (3.0 - 2.0 * share)


def _make_camera(time: float, seed: int) -> SceneCamera:
    """A camera that swings gently to and fro."""
    side = 1.0 if seed % 2 else -1.0
    azimuth = 90.0 + side * (12.0 * float(np.cos(time * np.pi / SECONDS)))
    return SceneCamera((0.0, 0.0, 0.05), 0.85, azimuth, -32.0, 42.0)


def _render_frames(
    world: World, plan: ScenePlan, start: Start, seed: int, count: int
) -> Iterator[ClipFrame]:
    with (
        Painter(world, FRAME_SIZE, ids=False) as colour,
        Painter(world, FRAME_SIZE, ids=True) as masks,
    ):
        for number in range(count):
            time = SECONDS * number / count
            apply_change(world, plan, start, _compute_share(time))
            camera = _make_camera(time, seed)
            yield ClipFrame(number, colour.picture(camera), masks.ids(camera))


def _render(world: World, camera: SceneCamera) -> Ids:
    with Painter(world, FRAME_SIZE, ids=True) as masks:
        return masks.ids(camera)


def _describe_regions(world: World, time: float, seed: int) -> dict[str, RenderedRegion]:
    """Describe the regions of the scene now, by node."""
    camera = _make_camera(time, seed)
    view = RenderedView("clip", "", "train", _render(world, camera), camera)
    return {region.node.node: region for region in describe_view(world, view)[1]}


def _list_nodes(plan: ScenePlan) -> list[str]:
    if plan.change == "open":
        return [f"o{plan.items[0]}p{plan.parts[0]}"]
    return [f"o{item}" for item in plan.items]


def _list_captions(regions: dict[str, RenderedRegion], plan: ScenePlan) -> dict[str, str | None]:
    found = {node: regions.get(node) for node in _list_nodes(plan)}
    return {node: None if one is None else one.long or one.short for node, one in found.items()}


def _make_prompts(world: World, regions: dict[str, RenderedRegion]) -> list[ClipPrompt]:
    prompts = []
    for node, region in regions.items():
        if region.node.type in ("object", "part"):
            item, _, part = node.removeprefix("o").partition("p")
            pieces = list_pieces(world, int(item), int(part) if part else None)
            words = region.node.part_nouns or region.node.nouns
            name = region.node.part or None
            prompts.append(ClipPrompt(node, region.node.kind, name, region.short, words, pieces))
    return prompts


def _mark_open(world: World, plan: ScenePlan) -> None:
    """Mark the drawer as open in the scene."""
    placements = list(world.scene.placements)
    index = plan.items[0]
    parts = list(placements[index].item.parts)
    parts[plan.parts[0]] = replace(parts[plan.parts[0]], states=("open",))
    item = replace(placements[index].item, parts=tuple(parts))
    placements[index] = replace(placements[index], item=item)
    world.scene = replace(world.scene, placements=tuple(placements))


def make_change(out: Path, change: Change, *, seed: int = 0, frames: int | None = None) -> None:
    """Write `<change>.mp4`, `prompts.json` and `truth.json` of one change into a folder."""
    world, plan = prepare_change(change, seed=seed)
    start = record_start(world, plan)
    before = _describe_regions(world, 0.0, seed)
    apply_change(world, plan, start, 1.0)
    if change == "open":
        _mark_open(world, plan)
    after = _describe_regions(world, SECONDS, seed)
    event: dict[str, Any] = {
        "change": change,
        "regions": _list_nodes(plan),
        "begin_s": BEGIN_S,
        "end_s": END_S,
        "before": _list_captions(before, plan),
        "after": _list_captions(after, plan),
    }
    count = frames or round(SECONDS * FRAMES_PER_SECOND)
    played = _render_frames(world, plan, start, seed, count)
    write_clip(out, change, played, prompts=_make_prompts(world, before), more={"event": event})
