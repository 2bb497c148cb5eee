"""Fruit. Each function draws one item; lengths in metres."""

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
from ureca.models.data.synthetic.objects.shapes import FloatArray, Point3


def _bumps(dice: Dice, strength: float) -> shapes.Bumps:
    """Gentle dents that make two fruits of a kind differ."""
    first, second = dice.between(0, 6.28), dice.between(0, 6.28)

    def scale(theta: FloatArray, phi: FloatArray) -> FloatArray:
        return 1.0 + strength * np.sin(2 * theta + first) * np.cos(2 * phi + second) * np.cos(phi)

    return scale


def _skin(dice: Dice, kind: str, options: tuple[str, ...]) -> SurfaceAppearance:
    return dice.rough(dice.colour_for(kind, options))


def _round_fruit(
    dice: Dice,
    kind: str,
    *,
    look: SurfaceAppearance,
    radii: tuple[float, float],
    taper: float,
    stem: bool,
) -> Item:
    """A fruit standing on the table, with a stem where it has one; radii are (across, up)."""
    size = dice.between(0.95, 1.2)
    across, up = radii[0] * size, radii[1] * size
    body = shapes.ellipsoid((across, across, up), taper=taper, bumps=_bumps(dice, 0.02)).moved(z=up)
    parts = [ObjectPart("body", body, look)]
    if stem:
        path: list[Point3] = [
            (0.0, 0.0, up * 1.9),
            (0.001, 0.0, up * 2.12),
            (0.005, 0.001, up * 2.4),
        ]
        parts.append(
            ObjectPart(
                "stem", shapes.tube(path, 0.003 * size, sides=8), dice.paint("brown", gloss=0.0)
            )
        )
    collider = Collider("ellipsoid", (across, across, up), (0.0, 0.0, up))
    return Item(kind, tuple(parts), (collider,), across, 2 * up, small=True)


def apple(dice: Dice) -> Item:
    """A red, green or yellow apple with a stem."""
    look = _skin(dice, "apple", ("red", "green", "yellow"))
    return _round_fruit(dice, "apple", look=look, radii=(0.037, 0.034), taper=-0.08, stem=True)


def orange(dice: Dice) -> Item:
    """An orange."""
    look = _skin(dice, "orange", ("orange",))
    return _round_fruit(dice, "orange", look=look, radii=(0.036, 0.035), taper=0.0, stem=False)


def pear(dice: Dice) -> Item:
    """A green or yellow pear with a stem."""
    look = _skin(dice, "pear", ("green", "yellow"))
    return _round_fruit(dice, "pear", look=look, radii=(0.036, 0.05), taper=-0.38, stem=True)


def lemon(dice: Dice) -> Item:
    """A yellow lemon lying on its side, with two pointed ends."""
    size = dice.between(0.95, 1.2)
    radius, half = 0.027 * size, 0.036 * size
    profile = [(0.0, -half * 1.15), (radius * 0.18, -half * 1.1)]
    angles = np.radians(np.linspace(-75, 75, 18))
    profile += [(radius * float(np.cos(a)), half * float(np.sin(a))) for a in angles]
    profile += [(radius * 0.18, half * 1.1), (0.0, half * 1.15)]
    body = shapes.lathe(profile, crease=80).turned("y", 90).moved(z=radius)
    part = ObjectPart("body", body, _skin(dice, "lemon", ("yellow",)))
    collider = Collider("ellipsoid", (half, radius, radius), (0.0, 0.0, radius))
    return Item("lemon", (part,), (collider,), half, 2 * radius, small=True)


def banana(dice: Dice) -> Item:
    """A curved yellow or green banana with a brown stem."""
    size = dice.between(0.95, 1.2)
    bow, thick = 0.1 * size, 0.018 * size
    steps = np.linspace(-1.0, 1.0, 20)
    path: list[Point3] = []
    for step in steps:
        angle = float(step) * 0.85
        path.append((bow * float(np.sin(angle)), bow * (1 - float(np.cos(angle))), thick))
    body = shapes.tube(path, thick * np.clip(1 - np.abs(steps) ** 5, 0.3, 1.0), sides=8)
    tip: list[Point3] = [
        (bow * float(np.sin(a)), bow * (1 - float(np.cos(a))), thick) for a in (0.84, 0.94, 1.02)
    ]
    stem = shapes.tube(tip, 0.0065 * size, sides=8)
    look = _skin(dice, "banana", ("yellow", "yellow", "green"))
    parts = (
        ObjectPart("body", body, look),
        ObjectPart("stem", stem, dice.paint("brown", gloss=0.0)),
    )
    colliders = (
        block((0.06 * size, 0.028, 2 * thick), at=(0.0, 0.004 * size, thick)),
        Collider("box", (0.03 * size, 0.014, thick), (0.055 * size, 0.025 * size, thick), 0.6),
        Collider("box", (0.03 * size, 0.014, thick), (-0.055 * size, 0.025 * size, thick), -0.6),
    )
    return Item("banana", parts, colliders, 0.085 * size, 2 * thick)
