"""Things from a kitchen. Each function draws one item; lengths in metres."""

from __future__ import annotations

from typing import Final

import numpy as np

from ureca.models.data.synthetic.objects import shapes
from ureca.models.data.synthetic.objects.parts import (
    Collider,
    Dice,
    Item,
    ObjectPart,
    SurfaceAppearance,
    block,
    disc,
    ring,
)
from ureca.models.data.synthetic.objects.shapes import Mesh, Point3

_EAR_STEPS: Final = np.radians(np.linspace(-90.0, 90.0, 14))


def ear(radius: float, *, base: float, height: float, reach: float, thick: float) -> Mesh:
    """A mug-like ear on the +x side, from z = base up to base + height."""
    path: list[Point3] = []
    for angle in _EAR_STEPS:
        x = radius * 0.96 + reach * float(np.cos(angle))
        path.append((x, 0.0, base + height / 2 + height / 2 * float(np.sin(angle))))
    return shapes.tube(path, thick)


def mug(dice: Dice) -> Item:
    """A mug: body, handle."""
    size = dice.between(0.9, 1.3)
    radius, height = 0.04 * size, dice.between(0.08, 0.11) * size
    look = dice.glazed("mug")
    same = look.texture is None and dice.chance(0.6)
    handle_look = look if same else dice.paint(dice.other_colour(look.colour))
    profile = shapes.cup_profile(radius * dice.between(0.8, 1), radius, height=height, wall=0.004)
    handle = ear(
        radius,
        base=height * 0.2,
        height=height * 0.6,
        reach=dice.between(0.024, 0.034) * size,
        thick=dice.between(0.0055, 0.008) * size,
    )
    body = ObjectPart("body", shapes.lathe(profile), look)
    grip = block((0.03 * size, 0.012, height * 0.6), at=(radius * 1.35, 0.0, height * 0.5))
    colliders = (*ring(radius, height), disc(radius * 0.9, 0.006), grip)
    return Item(
        "mug", (body, ObjectPart("handle", handle, handle_look)), colliders, radius * 1.6, height
    )


def bowl(dice: Dice) -> Item:
    """A bowl in one piece, sometimes of wood."""
    size = dice.between(0.8, 1.2)
    radius, height = 0.075 * size, dice.between(0.05, 0.07) * size
    look = dice.wood() if dice.chance(0.12) and not dice.forced else dice.glazed("bowl")
    curve = dice.between(0.4, 0.6)
    profile = shapes.cup_profile(radius * 0.45, radius, height=height, wall=0.005, curve=curve)
    colliders = (
        *ring(radius * 0.95, height * 0.55, wall=0.01, base=height * 0.45),
        *ring(radius * 0.75, height * 0.5, wall=0.012),
        disc(radius * 0.5, 0.008),
    )
    part = ObjectPart("body", shapes.lathe(profile, sides=56), look)
    return Item("bowl", (part,), colliders, radius, height, inner=radius * 0.75)


def plate(dice: Dice) -> Item:
    """A plate, sometimes with a rim in another colour."""
    radius = 0.11 * dice.between(0.8, 1.15)
    rise = 0.018
    look = dice.paint(dice.colour_for("plate"))
    middle = radius * 0.8
    centre = [(0.0, 0.0), (radius * 0.55, 0.0), (radius * 0.62, 0.004), (middle, rise * 0.5)]
    inside = [(middle - 0.001, rise * 0.5 + 0.004), (radius * 0.6, 0.008), (0.0, 0.006)]
    border = [(middle, rise * 0.5), (radius, rise), (radius - 0.001, rise + 0.004), inside[0]]
    rim_look = dice.paint(dice.other_colour(look.word)) if dice.chance(0.4) else look
    pieces = [shapes.lathe(centre + inside, sides=56), shapes.lathe(border, sides=56)]
    if rim_look is look:
        parts: tuple[ObjectPart, ...] = (ObjectPart("body", shapes.joined(pieces), look),)
    else:
        parts = (ObjectPart("center", pieces[0], look), ObjectPart("rim", pieces[1], rim_look))
    colliders = (disc(radius * 0.6, 0.007), *ring(radius, 0.012, wall=radius * 0.3, base=0.008))
    return Item("plate", parts, colliders, radius, rise, inner=radius * 0.7, contents="on")


def bottle(dice: Dice) -> Item:
    """A bottle: body, cap and often a label."""
    size = dice.between(0.85, 1.2)
    radius, height = 0.034 * size, dice.between(0.17, 0.23) * size
    neck, shoulder = radius * dice.between(0.35, 0.5), dice.between(0.58, 0.7)
    look = dice.paint(dice.colour_for("bottle"))
    profile = [(0.0, 0.0), *shapes.arc((radius - 0.004, 0.004), 0.004, start=-90, stop=0)]
    for step in np.linspace(0.0, 1.0, 10):
        bend = 0.5 - 0.5 * float(np.cos(step * np.pi))
        z = height * (shoulder + float(step) * (0.88 - shoulder))
        profile.append((radius + (neck - radius) * bend, z))
    profile += [(neck, height * 0.91), (0.0, height * 0.91)]
    cap = shapes.cylinder(neck * 1.3, height * 0.11).moved(z=height * 0.89)
    parts = [
        ObjectPart("body", shapes.lathe(profile), look),
        ObjectPart("cap", cap, dice.paint(dice.other_colour(look.word))),
    ]
    if dice.chance(0.6):
        band = [(radius * 1.015, height * 0.18), (radius * 1.015, height * shoulder * 0.85)]
        parts.append(
            ObjectPart("label", shapes.lathe(band), dice.label(dice.other_colour(look.word)))
        )
    colliders = (disc(radius, height * shoulder), disc(neck * 1.3, height * 0.4, base=height * 0.6))
    return Item("bottle", tuple(parts), colliders, radius, height, lies_down=0.2)


def can(dice: Dice) -> Item:
    """A drink or food can: painted body, metal top."""
    size = dice.between(0.9, 1.2)
    radius, height = 0.034 * size, dice.choose((0.12, 0.105, 0.085)) * size
    name, bevel = dice.colour_for("can"), 0.005
    look = dice.label(name) if dice.chance(0.6) else dice.paint(name)
    body = shapes.lathe(
        [(0.0, 0.002), (radius * 0.8, 0.0), (radius, bevel), (radius, height - bevel)]
    )
    top = [(radius, height - bevel), (radius * 0.9, height), (radius * 0.87, height - 0.003)]
    lid = shapes.lathe([*top, (0.0, height - 0.003)])
    parts = (ObjectPart("body", body, look), ObjectPart("top", lid, dice.metal()))
    return Item("can", parts, (disc(radius, height),), radius, height, lies_down=0.2)


def _enamel(dice: Dice, kind: str, options: tuple[str, ...]) -> SurfaceAppearance:
    """Bare metal or coloured enamel; gray enamel is left out since it would look like metal."""
    if kind not in dice.forced and dice.chance(0.3):
        return dice.metal()
    return dice.paint(dice.colour_for(kind, options))


def pot(dice: Dice) -> Item:
    """A cooking pot: body, two handles, often a lid with a knob."""
    size = dice.between(0.75, 1.0)
    radius, height = 0.085 * size, 0.09 * size * dice.between(0.85, 1.15)
    look = _enamel(
        dice, "pot", ("red", "black", "blue", "orange", "white", "yellow", "green", "light blue")
    )
    dark = dice.paint("black") if dice.chance(0.7) and look.word != "black" else look
    turns = np.linspace(-1.57, 1.57, 12)
    loop: list[Point3] = []
    for turn in turns:
        x = radius * 0.98 + 0.026 * size * float(np.cos(turn))
        loop.append((x, 0.032 * size * float(np.sin(turn)), height * 0.8))
    grip = shapes.tube(loop, 0.007 * size)
    body = shapes.lathe(
        shapes.cup_profile(radius * 0.95, radius, height=height, wall=0.004), sides=56
    )
    parts = [
        ObjectPart("body", body, look),
        ObjectPart("handles", shapes.joined([grip, grip.turned("z", 180)]), dark),
    ]
    bars = block((radius * 2.5, 0.05 * size, 0.014), at=(0.0, 0.0, height * 0.8))
    if not dice.chance(0.65):
        hollow = (*ring(radius, height, wall=0.008), disc(radius * 0.9, 0.006))
        return Item("pot", tuple(parts), hollow, radius * 1.3, height, inner=radius * 0.8)
    cover = [(0.0, height), (radius * 1.02, height), (radius * 1.02, height + 0.005)]
    cover += [(radius * 0.7, height + 0.014 * size), (0.0, height + 0.021 * size)]
    knob = shapes.ellipsoid((0.014 * size, 0.014 * size, 0.011 * size)).moved(
        z=height + 0.03 * size
    )
    parts += [
        ObjectPart("lid", shapes.lathe(cover, sides=56), look),
        ObjectPart("knob", knob, dark),
    ]
    return Item(
        "pot", tuple(parts), (disc(radius, height + 0.02), bars), radius * 1.3, height * 1.4
    )


def pan(dice: Dice) -> Item:
    """A frying pan: body, handle."""
    size = dice.between(0.7, 0.95)
    radius, depth = 0.11 * size, 0.035 * size
    look = _enamel(dice, "pan", ("black", "black", "red", "blue", "green", "orange"))
    grip_look = (
        dice.wood()
        if dice.chance(0.35)
        else dice.paint(dice.other_colour(look.word, ("black", "red", "gray", "blue")))
    )
    steps = np.linspace(0.0, 1.0, 8)
    path: list[Point3] = [
        (radius * 0.95 + float(t) * 0.17 * size, 0.0, depth * (0.75 + 0.6 * float(t)))
        for t in steps
    ]
    grip = shapes.tube(path, np.linspace(0.009, 0.013, 8) * size, flat=0.7)
    vessel = shapes.cup_profile(radius * 0.85, radius, height=depth, wall=0.004)
    parts = (
        ObjectPart("body", shapes.lathe(vessel, sides=56), look),
        ObjectPart("handle", grip, grip_look),
    )
    bar = block((0.16 * size, 0.02, 0.016), at=(radius + 0.08 * size, 0.0, depth))
    colliders = (*ring(radius, depth, wall=0.008), disc(radius * 0.9, 0.006), bar)
    return Item("pan", parts, colliders, radius * 1.6, depth, inner=radius * 0.75)


def teapot(dice: Dice) -> Item:
    """A teapot: body, spout, handle, lid with its knob."""
    size = dice.between(0.85, 1.1)
    radius, height = 0.062 * size, 0.09 * size
    look = dice.glazed("teapot", pattern=0.08)
    levels = np.linspace(0.0, 1.0, 14)
    bulge = radius * (0.55 + 0.45 * np.sin(levels * np.pi * 0.85 + 0.25))
    profile = [(0.0, 0.0)]
    profile += [(float(r), float(z)) for r, z in zip(bulge, levels * height, strict=True)]
    mouth = profile[-1][0]
    route = [(0.75, 0.3), (1.15, 0.45), (1.35, 0.75), (1.55, 1.0)]
    spout = shapes.tube(
        [(radius * a, 0.0, height * b) for a, b in route],
        np.array([0.016, 0.013, 0.01, 0.008]) * size,
    )
    handle = ear(
        radius * 0.85,
        base=height * 0.15,
        height=height * 0.75,
        reach=0.04 * size,
        thick=0.0075 * size,
    )
    cover = [
        (mouth, height),
        (mouth * 0.92, height + 0.008 * size),
        (mouth * 0.3, height + 0.016 * size),
        (0.0, height + 0.017 * size),
    ]
    knob = shapes.ellipsoid((0.01 * size,) * 3).moved(z=height + 0.023 * size)
    plain = look.texture is None and dice.chance(0.6)
    lid_look = look if plain else dice.paint(dice.other_colour(look.colour))
    parts = (
        ObjectPart("body", shapes.lathe([*profile, (0.0, height)]), look),
        ObjectPart("spout", spout, look if look.texture is None else lid_look),
        ObjectPart("handle", handle.turned("z", 180), look if look.texture is None else lid_look),
        ObjectPart("lid", shapes.joined([shapes.lathe(cover), knob]), lid_look),
    )
    bar = block((radius * 3.0, 0.02, height * 0.5), at=(0.0, 0.0, height * 0.55))
    return Item("teapot", parts, (disc(radius * 0.95, height), bar), radius * 1.6, height * 1.3)


def vase(dice: Dice) -> Item:
    """A vase in one piece with a wavy outline."""
    size = dice.between(0.8, 1.15)
    radius, height = 0.045 * size, 0.17 * size
    levels = np.linspace(0.0, 1.0, 20)
    wave, turns = dice.between(0.2, 0.5), dice.between(2.0, 4.5)
    radii = radius * (0.55 + wave * np.sin(levels * turns + 0.6) ** 2 + 0.12 * levels)
    outside = [(float(r), float(z)) for r, z in zip(radii, levels * height, strict=True)]
    inside = [(r - 0.004, z) for r, z in outside[:0:-1]]
    body = shapes.lathe([(0.0, 0.0), *outside, *inside, (0.0, 0.008)], sides=56)
    part = ObjectPart("body", body, dice.glazed("vase", pattern=0.2))
    widest = float(radii.max())
    return Item("vase", (part,), (disc(widest, height),), widest, height)


def tray(dice: Dice) -> Item:
    """A flat tray with a rim all in one look, of wood or painted."""
    size = dice.between(0.8, 1.05)
    x, y, z, wall = 0.29 * size, 0.2 * size, 0.026 * size, 0.007
    look = dice.wood() if dice.chance(0.5) else dice.paint(dice.colour_for("tray"))
    sides = [shapes.box((x, wall, z), centre=(0, s * (y - wall) / 2, z / 2)) for s in (-1, 1)]
    sides += [shapes.box((wall, y, z), centre=(s * (x - wall) / 2, 0, z / 2)) for s in (-1, 1)]
    parts = (
        ObjectPart("base", shapes.box((x, y, 0.006), centre=(0, 0, 0.003)), look),
        ObjectPart("rim", shapes.joined(sides), look),
    )
    walls = [block((x, wall, z), at=(0, s * (y - wall) / 2, z / 2)) for s in (-1, 1)]
    walls += [block((wall, y, z), at=(s * (x - wall) / 2, 0, z / 2)) for s in (-1, 1)]
    floor: Collider = block((x, y, 0.006))
    reach = float(np.hypot(x, y)) / 2
    return Item("tray", parts, (floor, *walls), reach, z, inner=y * 0.4, contents="on")
