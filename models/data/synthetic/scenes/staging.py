"""Prepares scenes in which one change can happen, and plans the change; see `changes.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from ureca.models.data.synthetic.objects.kinds import KINDS, draw_item
from ureca.models.data.synthetic.objects.parts import Dice
from ureca.models.data.synthetic.scenes.scene import (
    Scene,
    draw_floor,
    draw_lighting,
    draw_table,
    draw_wall,
    place_items,
)
from ureca.models.data.synthetic.scenes.world import World, build_world, settle_world

Change = Literal["swap", "move", "open", "tip"]
CHANGES: Final[tuple[Change, ...]] = get_args(Change)

_MOVABLE: Final = ("mug", "cube", "apple", "can", "bottle", "book", "bowl", "teapot")
_TIPPING: Final = ("bottle", "can")
_EXTRAS: Final = 4
_ATTEMPTS: Final = 40


@dataclass(frozen=True)
class ScenePlan:
    """What is going to happen: the items (indices), their goals (x, y), or the parts that slide.

    direction is where something tips to (a unit vector), pull how far (m) a drawer comes out.
    """

    change: Change
    items: tuple[int, ...]
    goals: tuple[tuple[float, float], ...] = ()
    parts: tuple[int, ...] = ()
    direction: tuple[float, float] = (1.0, 0.0)
    pull: float = 0.0


def _draw_leads(change: Change, dice: Dice) -> list[str]:
    if change == "open":
        return ["drawer cabinet"]
    if change == "tip":
        return [dice.choose(_TIPPING)]
    count = 2 if change == "swap" else 1
    return [str(kind) for kind in dice.rng.permutation(_MOVABLE)[:count]]


def _draw_stage(change: Change, dice: Dice) -> tuple[Scene, tuple[int, ...]]:
    """A scene with the things that change, and their indices (fewer if there was no room)."""
    leads = _draw_leads(change, dice)
    others = [kind for kind in KINDS if kind not in (*leads, "robot gripper")]
    kinds = [*leads, *(dice.choose(others) for _ in range(_EXTRAS))]
    placements = place_items(dice, [draw_item(kind, dice) for kind in kinds])
    hosts = {placement.host for placement in placements}
    free = tuple(
        index
        for index, one in enumerate(placements)
        if one.item.kind in leads and one.host is None and index not in hosts and not one.lying
    )
    table, floor, wall = draw_table(dice), draw_floor(dice), draw_wall(dice)
    return Scene(placements, table, floor, wall, (1.2, 0.9), draw_lighting(dice)), free


def _list_places(world: World) -> list[tuple[float, float, float]]:
    """x, y and radius (m) of all items."""
    spots = []
    for index, placement in enumerate(world.scene.placements):
        x, y, _ = (float(value) for value in world.pose(index)[0])
        spots.append((x, y, placement.item.radius))
    return spots


def _find_goal(world: World, item: int, dice: Dice) -> tuple[float, float] | None:
    """A free place well away from where the item is."""
    places = _list_places(world)
    x0, y0, reach = places[item]
    others = places[:item] + places[item + 1 :]
    for _ in range(60):
        x, y = dice.between(-0.3, 0.3), dice.between(-0.22, 0.22)
        far = float(np.hypot(x - x0, y - y0)) > 0.18
        if far and all(float(np.hypot(x - a, y - b)) > reach + r for a, b, r in others):
            return x, y
    return None


def _find_fall_direction(world: World, item: int) -> tuple[float, float]:
    """The direction with the most room in it, towards the table's middle if in doubt."""
    places = _list_places(world)
    x0, y0, _ = places[item]
    length = world.scene.placements[item].item.height * 0.6
    best, most = (1.0, 0.0), -1.0
    for angle in np.linspace(0.0, 2 * np.pi, 16, endpoint=False):
        way = (float(np.cos(angle)), float(np.sin(angle)))
        x, y = x0 + length * way[0], y0 + length * way[1]
        others = places[:item] + places[item + 1 :]
        room = min([float(np.hypot(x - a, y - b)) - r for a, b, r in others], default=1.0)
        room -= 0.2 * float(np.hypot(x, y))
        if room > most:
            best, most = way, room
    return best


def _make_plan(
    world: World, change: Change, items: tuple[int, ...], dice: Dice
) -> ScenePlan | None:
    """The change in detail, or None if this scene has no room for it."""
    if len(items) != (2 if change == "swap" else 1):
        return None
    if change == "swap":
        first, second = (_list_places(world)[item][:2] for item in items)
        return ScenePlan(change, items, (second, first))
    if change == "move":
        goal = _find_goal(world, items[0], dice)
        return None if goal is None else ScenePlan(change, items, (goal,))
    if change == "tip":
        return ScenePlan(change, items, direction=_find_fall_direction(world, items[0]))
    parts = world.scene.placements[items[0]].item.parts
    shut = [number for number, part in enumerate(parts) if "closed" in part.states]
    # A drawer and its handle follow each other in the list of parts.
    return ScenePlan(change, items, parts=(shut[-1], shut[-1] + 1), pull=0.06) if shut else None


def prepare_change(change: Change, *, seed: int) -> tuple[World, ScenePlan]:
    """Return a settled scene in which the change can happen. Raises `RuntimeError` if none was
    found.
    """
    for attempt in range(_ATTEMPTS):
        dice = Dice(np.random.default_rng([seed, CHANGES.index(change), attempt]))
        scene, items = _draw_stage(change, dice)
        world = build_world(scene, shadow=2048, samples=4)
        settle_world(world)
        plan = _make_plan(world, change, items, dice)
        if plan is not None and all(world.on_table(item) for item in items):
            return world, plan
    raise RuntimeError(f"no scene with room for {change!r} in {_ATTEMPTS} draws: try another seed")
