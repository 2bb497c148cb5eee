"""The demo clip: a robot pushes a mug over a table while the camera swings around it.

Everything it shows belongs to kinds of the training views, in colours and textures that those
never show. Written as `tabletop.mp4`, `prompts.json` (regions of frame 0) and `truth.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from ureca.models.data.synthetic.language import captions
from ureca.models.data.synthetic.objects import textures
from ureca.models.data.synthetic.objects.kinds import draw_item
from ureca.models.data.synthetic.objects.palette import draw_colour
from ureca.models.data.synthetic.objects.parts import Dice, Item, SurfaceAppearance
from ureca.models.data.synthetic.rendering.clip import (
    FRAME_SIZE,
    FRAMES_PER_SECOND,
    ClipFrame,
    ClipPrompt,
    list_pieces,
    write_clip,
)
from ureca.models.data.synthetic.rendering.render import Painter, SceneCamera
from ureca.models.data.synthetic.scenes.mujoco_import import mujoco
from ureca.models.data.synthetic.scenes.scene import Backdrop, ItemPlacement, Lighting, Scene
from ureca.models.data.synthetic.scenes.world import World, build_world, settle_world

SECONDS: Final = 12.0


@dataclass(frozen=True)
class Actor:
    """One item of the clip: place (x, y) in m, yaw in degrees; parts are the ones prompted for."""

    kind: str
    rid: str
    place: tuple[float, float]
    yaw: float
    colour: str | None = None
    draw: int = 0
    parts: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


_TEAPOT: Final = ("teapot", "pot", "kettle")
_DRAWERS: Final = ("top drawer", "top drawer handle")
_CABINET: Final = ("cabinet", "drawer", "drawers", "dresser")
_GRIPPER: Final = ("gripper", "robot", "arm")

CAST: Final = (
    Actor("mug", "red-mug", (0.2, -0.11), -60.0, "red", 9, ("handle",), ("mug", "cup")),
    Actor("bottle", "green-bottle", (0.2, 0.22), 250.0, "green", 4, ("cap", "label"), ("bottle",)),
    Actor("teapot", "blue-teapot", (0.05, 0.12), -25.0, "blue", 12, ("spout", "lid"), _TEAPOT),
    Actor("book", "orange-book", (-0.25, -0.11), 15.0, "orange", 8, ("pages",), ("book",)),
    Actor("cube", "yellow-cube", (-0.123, 0.35), 25.0, "yellow", 0, (), ("cube", "block", "box")),
    Actor("drawer cabinet", "cabinet", (-0.21, 0.16), 6.0, None, 13, _DRAWERS, _CABINET),
    Actor("robot gripper", "gripper", (0.32, -0.11), 193.0, "white", 2, ("fingers",), _GRIPPER),
)
GRIPPER: Final = len(CAST) - 1
_PART_WORDS: Final = MappingProxyType(
    {
        "cap": ("cap", "lid", "top"),
        "lid": ("lid", "cover", "cap"),
        "fingers": ("fingers", "finger", "gripper"),
    }
)


def _draw_actor(actor: Actor, seed: int) -> Item:
    forced = {actor.kind: actor.colour} if actor.colour else {}
    dice = Dice(np.random.default_rng([seed, actor.draw]), forced=forced)
    return draw_item(actor.kind, dice)


def _place_actor(actor: Actor, seed: int) -> ItemPlacement:
    x, y = actor.place
    return ItemPlacement(_draw_actor(actor, seed), (x, y, 0.003), float(np.radians(actor.yaw)))


def make_demo_scene(seed: int = 0) -> Scene:
    """The clip's tabletop; the seed changes textures and shades, never the cast."""
    rng = np.random.default_rng([seed, 99])
    wall = draw_colour("light blue", rng)
    wood = textures.wood(rng, "walnut", n=512, planks=4)
    table = SurfaceAppearance("wooden", (0.4, 0.28, 0.18), wood, 0.35, (1.2, 1.2))
    # Blotches without rhythm: evenly spaced wall panels made dense optical flow lose its way.
    blotched = textures.mottled(rng, wall, n=384, strength=0.09)
    paint = SurfaceAppearance("light blue", wall, blotched, 0.1, (4.0, 3.0))
    floor = draw_colour("gray", rng)
    return Scene(
        tuple(_place_actor(actor, seed) for actor in CAST),
        Backdrop("table", table, "a wooden table"),
        Backdrop("floor", SurfaceAppearance("gray", floor, None, 0.1), "a gray floor"),
        Backdrop("wall", paint, "a light blue wall"),
        (1.25, 0.95),
        Lighting((-0.7, -0.6, 1.7), (0.5, 0.48, 0.45), ambient=0.44, frontal=0.12, fill=0.2),
        seed,
    )


def _interpolate(time: float, start: float, stop: float) -> float:
    """Smooth step from 0 at start to 1 at stop (s)."""
    share = min(1.0, max(0.0, (time - start) / (stop - start)))
    return share * share * (3.0 - 2.0 * share)


def compute_gripper_place(time: float) -> tuple[float, float, float]:
    """Where the gripper is at a time (s): it comes down, pushes to the left and draws back."""
    x, y = CAST[GRIPPER].place
    down = 0.05 * (1.0 - _interpolate(time, 0.4, 1.4))
    pushed = 0.32 * _interpolate(time, 1.8, 8.2)
    back = 0.31 * _interpolate(time, 8.6, 11.4)
    up = 0.05 * _interpolate(time, 9.6, 11.2)
    return x - pushed + back, y, 0.004 + down + up


def make_camera(time: float) -> SceneCamera:
    """The camera at a time (s): it swings to the left and back and comes a little closer."""
    swing = _interpolate(time, 0.6, 5.8) - _interpolate(time, 6.6, 11.8)
    azimuth = 104.0 - 31.0 * swing
    distance = 0.8 - 0.04 * _interpolate(time, 2.0, 10.0)
    return SceneCamera((0.0, 0.05, 0.06), distance, azimuth, -26.0, 40.0)


def run_script(world: World) -> Iterator[ClipFrame]:
    """Run the physics along the script and paint every frame."""
    mocap = int(world.model.body(f"item{GRIPPER}").mocapid[0])
    begin = float(world.data.time)
    with (
        Painter(world, FRAME_SIZE, ids=False) as colour,
        Painter(world, FRAME_SIZE, ids=True) as masks,
    ):
        for number in range(round(SECONDS * FRAMES_PER_SECOND)):
            time = number / FRAMES_PER_SECOND
            world.data.mocap_pos[mocap] = compute_gripper_place(float(world.data.time) - begin)
            while world.data.time - begin < time:
                world.data.mocap_pos[mocap] = compute_gripper_place(float(world.data.time) - begin)
                mujoco.mj_step(world.model, world.data)
            mujoco.mj_forward(world.model, world.data)
            camera = make_camera(time)
            yield ClipFrame(number, colour.picture(camera), masks.ids(camera))


def _make_part_prompts(world: World, index: int, actor: Actor) -> list[ClipPrompt]:
    item = world.scene.placements[index].item
    prompts = []
    for number, part in enumerate(item.parts):
        if part.name in actor.parts:
            rid = f"{actor.rid}-{part.name.replace(' ', '-')}"
            words = _PART_WORDS.get(part.name, (part.name.split()[-1],))
            label = captions.list_part_names(item, part)[0]
            pieces = list_pieces(world, index, number)
            prompts.append(ClipPrompt(rid, actor.kind, part.name, label, words, pieces))
    return prompts


def make_prompts(world: World) -> list[ClipPrompt]:
    """All regions to follow: the items, some of their parts and the table."""
    prompts = []
    for index, actor in enumerate(CAST):
        label = captions.format_title(world.scene.placements[index].item)
        pieces = list_pieces(world, index)
        prompts.append(ClipPrompt(actor.rid, actor.kind, None, label, actor.accepted, pieces))
        prompts += _make_part_prompts(world, index, actor)
    table = tuple(
        i for i, piece in enumerate(world.pieces) if piece.item is None and piece.part == 0
    )
    prompts.append(
        ClipPrompt("table", "table", None, "a wooden table", ("table", "desk", "wood"), table)
    )
    return prompts


def make_demo(out: Path, *, seed: int = 0) -> None:
    """Write `tabletop.mp4`, `prompts.json` and `truth.json` into a folder."""
    world = build_world(make_demo_scene(seed), shadow=4096, samples=8)
    settle_world(world)
    write_clip(out, "tabletop", run_script(world), prompts=make_prompts(world))
