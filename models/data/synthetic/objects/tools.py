"""Cutlery, workshop and desk tools. Each function draws one item; lengths in metres."""

from __future__ import annotations

import numpy as np

from ureca.models.data.synthetic.objects import shapes
from ureca.models.data.synthetic.objects.parts import (
    Collider,
    Dice,
    Item,
    ObjectPart,
    SurfaceAppearance,
    block,
)
from ureca.models.data.synthetic.objects.shapes import Mesh, Point3

_STRONG = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")


def _fork_head(start: float, size: float) -> Mesh:
    """A palm with four tines, beginning at x = start."""
    palm = shapes.box((0.024 * size, 0.026 * size, 0.003), centre=(start + 0.008, 0.0, 0.007))
    tines = []
    for y in np.linspace(-0.011, 0.011, 4) * size:
        path: list[Point3] = [
            (start + 0.018 * size, float(y), 0.007),
            (start + 0.036 * size, float(y), 0.0055),
        ]
        tines.append(
            shapes.tube(
                [*path, (start + 0.06 * size, float(y), 0.009)], [0.0024, 0.0022, 0.001], sides=8
            )
        )
    return shapes.joined([palm, *tines])


def _spoon_head(start: float, size: float) -> Mesh:
    """A shallow oval bowl."""
    profile = shapes.cup_profile(0.008, 0.022 * size, height=0.01, wall=0.0016, curve=0.5)
    return shapes.lathe(profile, squash=(1.45, 1.0)).moved(x=start + 0.03 * size, z=0.0035)


def _blade(start: float, size: float) -> Mesh:
    """A flat blade that narrows towards its tip."""
    steps = np.linspace(0.0, 1.0, 12)
    path: list[Point3] = [(start + float(t) * 0.1 * size, 0.0, 0.0075) for t in steps]
    return shapes.tube(path, 0.014 * size * np.sqrt(np.maximum(1 - steps**2.2, 0.01)), flat=0.12)


def _cutlery_looks(dice: Dice, kind: str) -> tuple[SurfaceAppearance, SurfaceAppearance]:
    """Looks of handle and head: all metal, all wood (spoons) or a coloured handle."""
    metal = dice.metal()
    if dice.chance(0.4):
        return metal, metal
    if kind == "spoon" and dice.chance(0.4):
        look = dice.wood()
        return look, look
    return dice.paint(dice.colour_for(kind, _STRONG)), metal


def _cutlery(dice: Dice, kind: str) -> Item:
    """A table tool lying along x: handle first, then its head."""
    size = dice.between(1.0, 1.25)
    length, neck = 0.18 * size, 0.02 * size
    handle_look, head_look = _cutlery_looks(dice, kind)
    along = np.linspace(-length / 2, neck, 10)
    bend = 0.006 + 0.003 * np.sin((along + length / 2) / length * 3)
    path: list[Point3] = [(float(x), 0.0, float(z)) for x, z in zip(along, bend, strict=True)]
    handle = shapes.tube(path, 0.0085 * size * np.linspace(1.0, 0.55, 10), flat=0.5)
    head = {"spoon": _spoon_head, "fork": _fork_head, "knife": _blade}[kind](neck, size)
    name = {"spoon": "bowl", "fork": "tines", "knife": "blade"}[kind]
    parts = (ObjectPart("handle", handle, handle_look), ObjectPart(name, head, head_look))
    bar = block((length, 0.024, 0.012), at=(0.005, 0.0, 0.006))
    by_part = handle_look.word != head_look.word
    return Item(kind, parts, (bar,), length * 0.52, 0.012, titled_by_part=by_part)


def spoon(dice: Dice) -> Item:
    """A spoon: handle, bowl."""
    return _cutlery(dice, "spoon")


def fork(dice: Dice) -> Item:
    """A fork: handle, tines."""
    return _cutlery(dice, "fork")


def knife(dice: Dice) -> Item:
    """A table knife: handle, blade."""
    return _cutlery(dice, "knife")


def screwdriver(dice: Dice) -> Item:
    """A screwdriver lying along x: handle, metal shaft."""
    size = dice.between(0.95, 1.25)
    radius = 0.015 * size
    outline = [
        (0.0, 0.0),
        (0.8, 0.002),
        (1.0, 0.012),
        (0.9, 0.05),
        (1.05, 0.075),
        (0.6, 0.095),
        (0.0, 0.097),
    ]
    profile = [(radius * wide, along * size if along > 0.01 else along) for wide, along in outline]
    handle = (
        shapes.lathe(profile, sides=8, crease=60).turned("y", 90).moved(x=-0.1 * size, z=radius)
    )
    tip: list[Point3] = [
        (-0.005 * size, 0, radius),
        (0.085 * size, 0, radius),
        (0.095 * size, 0, radius),
    ]
    shaft = shapes.tube(tip, [0.0045 * size, 0.0045 * size, 0.0025], sides=10)
    look = dice.paint(dice.colour_for("screwdriver", _STRONG))
    parts = (ObjectPart("handle", handle, look), ObjectPart("shaft", shaft, dice.metal()))
    colliders = (
        block((0.096 * size, 2 * radius, 2 * radius), at=(-0.052 * size, 0.0, radius)),
        block((0.1 * size, 0.008, 0.008), at=(0.045 * size, 0.0, radius)),
    )
    return Item("screwdriver", parts, colliders, 0.1 * size, 2 * radius)


def _hammer_head(size: float) -> Mesh:
    """A face on one side, a claw on the other, across the end of the handle."""
    x, z = 0.095 * size, 0.016 * size
    face = shapes.cylinder(0.016 * size, 0.045 * size, bevel=0.003).turned("x", 90)
    eye = shapes.box((0.028 * size, 0.034 * size, 0.028 * size), radius=0.004, centre=(x, 0.0, z))
    claw = shapes.box((0.026 * size, 0.05 * size, 0.01 * size), centre=(x, -0.034 * size, z))
    return shapes.joined([face.moved(x=x, y=0.055 * size, z=z), eye, claw])


def hammer(dice: Dice) -> Item:
    """A hammer lying along x: wooden or coloured handle, metal head."""
    size = dice.between(0.85, 1.1)
    look = dice.wood() if dice.chance(0.4) else dice.paint(dice.colour_for("hammer", _STRONG))
    path: list[Point3] = [
        (float(x) * size, 0.0, 0.016 * size) for x in np.linspace(-0.12, 0.09, 10)
    ]
    handle = shapes.tube(path, 0.014 * size * np.linspace(1.1, 0.85, 10), flat=0.8)
    parts = (
        ObjectPart("handle", handle, look),
        ObjectPart("head", _hammer_head(size), dice.metal()),
    )
    thick = 0.028 * size
    colliders: tuple[Collider, ...] = (
        block((0.21 * size, thick, thick), at=(-0.015 * size, 0.0, 0.016 * size)),
        block((0.03 * size, 0.11 * size, thick), at=(0.095 * size, 0.0, 0.016 * size)),
    )
    return Item("hammer", parts, colliders, 0.12 * size, 0.032 * size, titled_by_part=True)


def wrench(dice: Dice) -> Item:
    """An open-ended wrench lying along x: handle, jaw; coloured or bare metal."""
    size = dice.between(0.9, 1.2)
    look = (
        dice.metal()
        if dice.chance(0.4)
        else dice.paint(dice.colour_for("wrench", ("red", "blue", "black", "yellow")))
    )
    metal = dice.metal()
    handle = shapes.box((0.13 * size, 0.018 * size, 0.009), centre=(-0.01, 0.0, 0.005))
    angles = np.radians(np.linspace(50, 310, 14))
    path: list[Point3] = []
    for angle in angles:
        x, y = (
            0.078 * size + 0.017 * size * float(np.cos(angle)),
            0.017 * size * float(np.sin(angle)),
        )
        path.append((x, y, 0.006))
    jaw = shapes.tube(path, 0.0085 * size, flat=0.65)
    parts = (ObjectPart("handle", handle, look), ObjectPart("jaw", jaw, metal))
    bar = block((0.17 * size, 0.03 * size, 0.011), at=(0.01, 0.0, 0.0055))
    return Item("wrench", parts, (bar,), 0.095 * size, 0.012, titled_by_part=look.word != "metal")


def marker(dice: Dice) -> Item:
    """A felt marker lying along x: cap in the titular colour, body alike or neutral."""
    size = dice.between(1.05, 1.4)
    radius, length = 0.0095 * size, 0.13 * size
    look = dice.paint(dice.colour_for("marker"))
    neutral = [name for name in ("white", "black", "gray") if name != look.word]
    body_look = look if dice.chance(0.5) else dice.paint(dice.choose(neutral))
    body = shapes.cylinder(radius, length * 0.68).turned("y", 90).moved(x=-length / 2, z=radius)
    cap = (
        shapes.cylinder(radius * 1.12, length * 0.34)
        .turned("y", 90)
        .moved(x=length * 0.16, z=radius)
    )
    parts = (ObjectPart("body", body, body_look), ObjectPart("cap", cap, look))
    bar = block((length, 2 * radius, 2 * radius), at=(0.0, 0.0, radius))
    by_cap = body_look is not look
    return Item(
        "marker",
        parts,
        (bar,),
        length / 2,
        2 * radius,
        title_part=1,
        titled_by_part=by_cap,
        small=True,
    )


def sponge(dice: Dice) -> Item:
    """A dish sponge: soft body with a scouring pad on top."""
    size = dice.between(0.95, 1.2)
    look = dice.rough(dice.colour_for("sponge", ("yellow", "blue", "pink", "orange", "purple")))
    pad_look = dice.rough(dice.choose([n for n in ("green", "gray", "black") if n != look.word]))
    body = shapes.box((0.1 * size, 0.065 * size, 0.024), radius=0.005, centre=(0.0, 0.0, 0.012))
    pad = shapes.box((0.1 * size, 0.065 * size, 0.009), radius=0.002, centre=(0.0, 0.0, 0.0285))
    parts = (ObjectPart("body", body, look), ObjectPart("scouring pad", pad, pad_look))
    collider = block((0.1 * size, 0.065 * size, 0.033))
    return Item("sponge", parts, (collider,), 0.06 * size, 0.033)


def remote(dice: Dice) -> Item:
    """A remote control: body, a field of buttons and a power button."""
    look = dice.paint(dice.colour_for("remote control", ("black", "gray", "white")), gloss=0.4)
    keys_look = dice.paint("black" if look.word == "white" else "white", gloss=0.1)
    keys = []
    for x in np.linspace(-0.06, 0.035, 6):
        keys += [
            shapes.box((0.01, 0.01, 0.005), radius=0.001, centre=(float(x), y, 0.0195))
            for y in (-0.015, 0.0, 0.015)
        ]
    power = shapes.cylinder(0.007, 0.005).moved(x=0.065, z=0.0165)
    parts = (
        ObjectPart(
            "body", shapes.box((0.17, 0.052, 0.018), radius=0.006, centre=(0.0, 0.0, 0.009)), look
        ),
        ObjectPart("buttons", shapes.joined(keys), keys_look),
        ObjectPart("power button", power, dice.paint("red", gloss=0.1)),
    )
    return Item("remote control", parts, (block((0.17, 0.052, 0.018)),), 0.088, 0.022)
