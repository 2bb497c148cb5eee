"""The vocabulary of a world: looks, parts, items and the dice they are drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ureca.models.data.synthetic.objects import textures
from ureca.models.data.synthetic.objects.palette import COLOURS, HELD_BACK_PAIRS, Rgb, draw_colour
from ureca.models.data.synthetic.objects.shapes import Mesh, Point3

Choice = TypeVar("Choice")
Shape = Literal["box", "cylinder", "ellipsoid"]
METAL_RGB: Rgb = (0.66, 0.67, 0.69)
_STEEL: Final = textures.steel()


@dataclass(frozen=True)
class SurfaceAppearance:
    """How a surface looks and the word people would use for it ("red", "wooden", "metal").

    held_back marks textures that no training view shows.
    """

    word: str
    rgb: Rgb
    texture: NDArray[np.uint8] | None = None
    gloss: float = 0.4
    repeat: tuple[float, float] = (1.0, 1.0)
    held_back: bool = False

    @property
    def colour(self) -> str:
        """The first colour of the word: "red" of "red and white striped"."""
        return self.word.split(" and ")[0].removesuffix(" polka dot")


@dataclass(frozen=True)
class ObjectPart:
    """A named piece of an item; states are words such as "open" that this draw shows."""

    name: str
    mesh: Mesh
    look: SurfaceAppearance
    states: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collider:
    """A primitive for physics: half sizes as MuJoCo wants them, position in m, yaw in radians."""

    shape: Shape
    size: tuple[float, ...]
    position: Point3
    yaw: float = 0.0


@dataclass(frozen=True)
class Item:
    """One thing on the table, in its own frame: standing on z = 0, centred about x = y = 0.

    radius and height bound it (m); inner is the radius (m) that contents may use (0: none) and
    contents says how they lie ("in" or "on"). title_part is the part whose look is the item's
    adjective; with titled_by_part the title reads "a hammer with a red handle".
    """

    kind: str
    parts: tuple[ObjectPart, ...]
    colliders: tuple[Collider, ...]
    radius: float
    height: float
    title_part: int = 0
    titled_by_part: bool = False
    inner: float = 0.0
    contents: Literal["in", "on"] = "in"
    small: bool = False
    lies_down: float = 0.0
    faces_front: bool = False
    fixed: bool = False

    @property
    def look(self) -> SurfaceAppearance:
        """The look that gives the item its adjective."""
        return self.parts[self.title_part].look


@dataclass
class Dice:
    """Seeded draws; held_back=False never draws a held-back pair, True prefers one."""

    rng: np.random.Generator
    held_back: bool = False
    forced: dict[str, str] = field(default_factory=dict)

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def choose(self, options: Sequence[Choice]) -> Choice:
        """One of the options, all alike."""
        return options[int(self.rng.integers(len(options)))]

    def colour_for(self, kind: str, options: Sequence[str] = COLOURS) -> str:
        """A colour name for an item's main part that respects the held-back pairs."""
        if kind in self.forced:
            return self.forced[kind]
        kept = [name for name in options if (name, kind) not in HELD_BACK_PAIRS]
        held = [name for name in options if (name, kind) in HELD_BACK_PAIRS]
        return self.choose(held if self.held_back and held and self.chance(0.6) else kept)

    def other_colour(self, name: str, options: Sequence[str] = COLOURS) -> str:
        """A colour name that is easy to tell from the given one."""
        near = {"brown": "black", "black": "brown", "light blue": "blue", "blue": "light blue"}
        near |= {"gray": "white", "orange": "yellow", "yellow": "orange", "white": "gray"}
        return self.choose([option for option in options if option not in (name, near.get(name))])

    def paint(self, name: str, *, gloss: float | None = None) -> SurfaceAppearance:
        """A plain look in a named colour."""
        rgb = draw_colour(name, self.rng)
        return SurfaceAppearance(
            name, rgb, gloss=self.between(0.2, 0.8) if gloss is None else gloss
        )

    def rough(self, name: str) -> SurfaceAppearance:
        """A matt, faintly mottled look in a named colour."""
        rgb = draw_colour(name, self.rng)
        return SurfaceAppearance(name, rgb, textures.mottled(self.rng, rgb), gloss=0.1)

    def metal(self) -> SurfaceAppearance:
        """Bare metal: light gray with reflections, which plain gray or white paint has not."""
        return SurfaceAppearance("metal", METAL_RGB, _STEEL, gloss=1.0)

    def wood(self, tone: str | None = None) -> SurfaceAppearance:
        """Wood with visible grain; the held-back tone only where it is asked for."""
        tone = tone or self.choose(("oak", "beech", "teak", "mahogany"))
        texture = textures.wood(self.rng, tone, n=160)
        rgb = tuple(float(channel) / 255.0 for channel in texture.mean(axis=(0, 1)))
        return SurfaceAppearance("wooden", (rgb[0], rgb[1], rgb[2]), texture, gloss=0.25)

    def label(self, name: str) -> SurfaceAppearance:
        """Printed paper in a named colour with contrasting ink."""
        rgb = draw_colour(name, self.rng)
        ink = (0.95, 0.95, 0.93) if sum(rgb) < 1.2 else (0.12, 0.12, 0.14)
        return SurfaceAppearance(name, rgb, textures.printed_label(self.rng, rgb, ink), gloss=0.1)

    def patterned(self, name: str) -> SurfaceAppearance:
        """Stripes, polka dots or checks of a colour with white (or black, beside pale colours)."""
        other = "black" if name in ("white", "yellow") else "white"
        base, second = draw_colour(name, self.rng), draw_colour(other, self.rng)
        count = int(self.rng.integers(3, 6))
        if self.held_back and self.chance(0.4):
            # Zigzag bands: no training view has them, but people would call them stripes too.
            bands = textures.zigzag(base, second, count=count)
            return SurfaceAppearance(f"{name} and {other} striped", base, bands, held_back=True)
        pattern = self.choose(("striped", "dotted", "checkered"))
        if pattern == "dotted":
            return SurfaceAppearance(
                f"{name} polka dot", base, textures.dots(base, second, count=count + 1)
            )
        if pattern == "checkered":
            texture = textures.checks(base, second, count=count)
        else:
            upright = self.chance(0.3)
            texture = textures.stripes(base, second, count=count, upright=upright)
        return SurfaceAppearance(f"{name} and {other} {pattern}", base, texture)

    def glazed(
        self, kind: str, *, pattern: float = 0.12, options: Sequence[str] = COLOURS
    ) -> SurfaceAppearance:
        """The usual look of a smooth item: plain paint, now and then with a pattern."""
        name = self.colour_for(kind, options)
        plain = (
            kind in self.forced
            or not self.chance(pattern)
            or name in ("gray", "brown", "light blue")
        )
        return self.paint(name) if plain else self.patterned(name)


def ring(radius: float, height: float, *, wall: float = 0.006, base: float = 0.0) -> list[Collider]:
    """Boxes (half sizes) standing in a circle, the hollow wall of a vessel."""
    count = 10
    half_side = radius * float(np.tan(np.pi / count)) + wall / 2
    colliders = []
    for angle in np.arange(count) * 2 * np.pi / count:
        x, y = (
            (radius - wall / 2) * float(np.cos(angle)),
            (radius - wall / 2) * float(np.sin(angle)),
        )
        size = (wall / 2, half_side, height / 2)
        colliders.append(Collider("box", size, (x, y, base + height / 2), float(angle)))
    return colliders


def disc(radius: float, height: float, *, base: float = 0.0) -> Collider:
    """An upright cylinder collider whose foot is at z = base."""
    return Collider("cylinder", (radius, height / 2), (0.0, 0.0, base + height / 2))


def block(size: Point3, *, at: Point3 | None = None) -> Collider:
    """A box collider of full edge lengths; without a place it stands on the origin."""
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return Collider("box", half, at or (0.0, 0.0, half[2]))
