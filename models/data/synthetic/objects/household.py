"""Things about a house, plain solids and the robot's gripper. Lengths in metres."""

from __future__ import annotations

import numpy as np

from ureca.models.data.synthetic.objects import shapes
from ureca.models.data.synthetic.objects.palette import COLOURS
from ureca.models.data.synthetic.objects.parts import (
    Collider,
    Dice,
    Item,
    ObjectPart,
    SurfaceAppearance,
    block,
    disc,
)
from ureca.models.data.synthetic.objects.shapes import Mesh, Point3

_NEUTRAL = ("white", "gray", "black", "light blue", "blue", "green", "red")


def _cabinet_frame(x: float, y: float, z: float, *, boards: list[float], wall: float) -> Mesh:
    """Sides, back and horizontal boards at the given heights."""
    sides = [shapes.box((wall, y, z), centre=(s * (x - wall) / 2, 0.0, z / 2)) for s in (-1, 1)]
    levels = [shapes.box((x, y, wall), centre=(0.0, 0.0, level)) for level in boards]
    back = shapes.box((x, wall / 2, z), centre=(0.0, y / 2 - wall / 4, z / 2))
    return shapes.joined([*sides, *levels, back])


def _drawer(x: float, y: float, z: float, *, front: float, centre: float) -> Mesh:
    """A drawer: its front at y = front, floor and sides behind it (unseen while it is shut)."""
    wall = 0.009
    middle = front + y * 0.4
    pieces = [
        shapes.box((x, wall, z), centre=(0.0, front + wall / 2, centre)),
        shapes.box((x - 0.01, y * 0.8, 0.004), centre=(0.0, middle, centre - z * 0.4)),
    ]
    for side in (-1, 1):
        at = (side * (x / 2 - 0.004), middle, centre - z * 0.1)
        pieces.append(shapes.box((0.004, y * 0.8, z * 0.6), centre=at))
    return shapes.joined(pieces)


def _drawer_handle(half: float, front: float, centre: float) -> Mesh:
    """A bow handle in front of a drawer."""
    outline = [(-1.0, 0.0), (-1.0, 0.015), (-0.8, 0.021), (0.8, 0.021), (1.0, 0.015), (1.0, 0.0)]
    path: list[Point3] = [(half * across, front - out, centre) for across, out in outline]
    return shapes.tube(path, 0.0052, sides=10)


def drawer_cabinet(dice: Dice) -> Item:
    """A small cabinet: frame, two or three drawers, each with a handle; some stand open."""
    size, wall = dice.between(0.75, 0.95), 0.009
    x, y, step = 0.22 * size, 0.15 * size, 0.062 * size
    names = dice.choose((("bottom", "top"), ("bottom", "middle", "top")))
    z = len(names) * step + wall
    look = (
        dice.wood() if dice.chance(0.5) else dice.paint(dice.colour_for("drawer cabinet", _NEUTRAL))
    )
    handle_look = (
        dice.metal()
        if dice.chance(0.4)
        else dice.paint(dice.other_colour(look.word, ("black", "white", "yellow", "red")))
    )
    front_look = look if dice.chance(0.6) else dice.paint(dice.other_colour(look.word, _NEUTRAL))
    boards = [wall / 2 + step * i for i in range(len(names) + 1)]
    parts = [ObjectPart("frame", _cabinet_frame(x, y, z, boards=boards, wall=wall), look)]
    colliders: list[Collider] = [block((x, y, z))]
    for index, name in enumerate(names):
        pulled = dice.between(0.04, 0.08) * size if dice.chance(0.35) else 0.0
        front, centre = -y / 2 - pulled - 0.003, wall / 2 + step * (index + 0.5)
        width, tall = x - 2 * wall - 0.003, step - wall - 0.003
        drawer = _drawer(width, y, tall, front=front, centre=centre)
        handle = _drawer_handle(dice.between(0.02, 0.035) * size, front, centre)
        parts += [
            ObjectPart(f"{name} drawer", drawer, front_look, ("open" if pulled else "closed",)),
            ObjectPart(f"{name} drawer handle", handle, handle_look),
        ]
        if pulled:
            colliders.append(block((width, pulled, tall), at=(0.0, -(y + pulled) / 2, centre)))
    return Item("drawer cabinet", tuple(parts), tuple(colliders), 0.155 * size, z, faces_front=True)


def lamp(dice: Dice) -> Item:
    """A table lamp: base, pole, shade; named after its shade."""
    size = dice.between(0.75, 1.0)
    height = 0.28 * size
    shade_look = dice.rough(dice.colour_for("lamp"))
    base_look = dice.paint(dice.other_colour(shade_look.word))
    wide, narrow = 0.075 * size, 0.048 * size
    outline = [
        (wide, height * 0.6),
        (narrow, height),
        (narrow - 0.001, height),
        (wide - 0.001, height * 0.6),
    ]
    pole = shapes.cylinder(0.0075 * size, height * 0.85)
    parts = (
        ObjectPart("base", shapes.cylinder(0.055 * size, 0.016 * size, bevel=0.004), base_look),
        ObjectPart("pole", pole.moved(z=0.01), dice.metal() if dice.chance(0.5) else base_look),
        ObjectPart("shade", shapes.lathe(outline, sides=56), shade_look),
    )
    colliders = (
        disc(0.055 * size, 0.016),
        disc(0.06 * size, height * 0.4, base=height * 0.6),
        disc(0.01, height * 0.6),
    )
    return Item("lamp", parts, colliders, wide, height, title_part=2)


def book(dice: Dice) -> Item:
    """A closed book lying flat: cover, pages."""
    size = dice.between(0.75, 1.05)
    x, y, z = 0.14 * size, 0.2 * size, dice.between(0.016, 0.036)
    name = dice.colour_for("book")
    look = dice.label(name) if dice.chance(0.5) else dice.paint(name, gloss=0.3)
    boards = [
        shapes.box((x, y, 0.003), radius=0.001, centre=(0.0, 0.0, level))
        for level in (0.0015, z - 0.0015)
    ]
    spine = shapes.box((0.003, y, z), radius=0.001, centre=(-x / 2 + 0.0015, 0.0, z / 2))
    pages = shapes.box((x - 0.008, y - 0.008, z - 0.006), radius=0.0005, centre=(0.0, 0.0, z / 2))
    parts = (
        ObjectPart("cover", shapes.joined([*boards, spine]), look),
        ObjectPart("pages", pages, dice.paint("white", gloss=0.0)),
    )
    reach = float(np.hypot(x, y)) / 2
    return Item("book", parts, (block((x, y, z)),), reach, z, inner=x * 0.45, contents="on")


def carton(dice: Dice) -> Item:
    """A cardboard box in one piece, often printed."""
    size = dice.between(0.7, 1.1)
    x, y, z = (
        edge * size
        for edge in dice.choose(
            ((0.13, 0.06, 0.18), (0.1, 0.07, 0.14), (0.15, 0.11, 0.07), (0.12, 0.08, 0.1))
        )
    )
    name = dice.colour_for("box")
    look = dice.label(name) if dice.chance(0.5) else dice.rough(name)
    part = ObjectPart("body", shapes.box((x, y, z), radius=0.002, centre=(0.0, 0.0, z / 2)), look)
    inner = min(x, y) * 0.45 if z < 0.11 else 0.0
    return Item(
        "box",
        (part,),
        (block((x, y, z)),),
        float(np.hypot(x, y)) / 2,
        z,
        inner=inner,
        contents="on",
    )


def _solid_look(dice: Dice, kind: str, *, wooden: float) -> SurfaceAppearance:
    if kind not in dice.forced and dice.chance(wooden):
        return dice.wood()
    return dice.glazed(kind, pattern=0.15)


def cube(dice: Dice) -> Item:
    """A toy cube, painted or of wood."""
    edge = dice.choose((0.04, 0.05, 0.065))
    mesh = shapes.box((edge, edge, edge), radius=edge * 0.06, centre=(0.0, 0.0, edge / 2))
    part = ObjectPart("body", mesh, _solid_look(dice, "cube", wooden=0.15))
    return Item("cube", (part,), (block((edge, edge, edge)),), edge * 0.72, edge, small=True)


def ball(dice: Dice) -> Item:
    """A ball."""
    radius = dice.choose((0.026, 0.034, 0.045))
    mesh = shapes.ellipsoid((radius, radius, radius)).moved(z=radius)
    # An orange ball and the fruit are hard to tell apart.
    colours = tuple(name for name in COLOURS if name != "orange")
    part = ObjectPart("body", mesh, dice.glazed("ball", pattern=0.25, options=colours))
    collider = Collider("ellipsoid", (radius, radius, radius), (0.0, 0.0, radius))
    return Item("ball", (part,), (collider,), radius, 2 * radius, small=True)


def cylinder(dice: Dice) -> Item:
    """A solid cylinder, painted or of wood."""
    radius = dice.choose((0.022, 0.03, 0.038))
    height = radius * dice.between(1.2, 2.6)
    mesh = shapes.cylinder(radius, height, bevel=radius * 0.08)
    part = ObjectPart("body", mesh, _solid_look(dice, "cylinder", wooden=0.2))
    return Item("cylinder", (part,), (disc(radius, height),), radius, height, small=True)


def gripper(dice: Dice) -> Item:
    """A two-finger robot gripper that hangs over the table from an arm; pushes towards +x."""
    look = dice.paint(dice.colour_for("robot gripper", ("white", "gray", "black")), gloss=0.6)
    finger_look = dice.paint(
        dice.other_colour(look.word, ("black", "orange", "blue", "gray")), gloss=0.2
    )
    fingers = []
    for side in (-1, 1):
        pad = shapes.box((0.022, 0.014, 0.075), radius=0.004, centre=(0.0, side * 0.026, 0.045))
        knuckle = shapes.box((0.026, 0.022, 0.03), radius=0.004, centre=(0.0, side * 0.032, 0.085))
        fingers += [pad, knuckle]
    palm = shapes.box((0.05, 0.105, 0.045), radius=0.008, centre=(0.0, 0.0, 0.118))
    wrist = shapes.cylinder(0.03, 0.06, bevel=0.004).moved(z=0.138)
    path: list[Point3] = [
        (0.0, 0.0, 0.19),
        (-0.02, 0.0, 0.3),
        (-0.1, 0.0, 0.42),
        (-0.35, 0.0, 0.62),
        (-0.7, 0.0, 0.75),
    ]
    arm = shapes.tube(path, 0.034, sides=20)
    parts = (
        ObjectPart("palm", shapes.joined([palm, wrist]), look),
        ObjectPart("fingers", shapes.joined(fingers), finger_look),
        ObjectPart("arm", arm, look),
    )
    body = block((0.05, 0.1, 0.14), at=(0.0, 0.0, 0.08))
    return Item("robot gripper", parts, (body,), 0.07, 0.2, fixed=True)
