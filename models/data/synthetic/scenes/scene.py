"""Draws a scene at random: items, their places, the room and the light. It has no physics and no
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ureca.models.data.synthetic.objects import textures
from ureca.models.data.synthetic.objects.kinds import BULKY, KINDS, STACKABLE, draw_item
from ureca.models.data.synthetic.objects.palette import Rgb, draw_colour
from ureca.models.data.synthetic.objects.parts import Dice, Item, SurfaceAppearance

CLUSTER: Final = (0.34, 0.24)
"""Half axes (m) of the oval about the table's centre that items are put into."""

_REPEAT_KIND: Final = 0.3
_FULL: Final = 3
"""Most things that one other thing holds."""
_ROOM_PAINT: Final = ("white", "gray", "light blue", "yellow", "green", "pink")
_TABLE_PAINT: Final = ("white", "gray", "black", "brown", "blue", "green", "light blue")
_CLOTH: Final = ("red", "blue", "green", "yellow", "purple", "pink")


@dataclass(frozen=True)
class Backdrop:
    """Table, floor or wall: its look and the caption people would give it."""

    name: str
    look: SurfaceAppearance
    phrase: str


@dataclass(frozen=True)
class ItemPlacement:
    """An item and its starting pose: x, y, z in m, yaw in radians; host is an index or None."""

    item: Item
    position: tuple[float, float, float]
    yaw: float
    lying: bool = False
    host: int | None = None


@dataclass(frozen=True)
class Lighting:
    """A shadowed key lamp at a place (m) plus even light; strengths per RGB channel in 0..1."""

    place: tuple[float, float, float]
    key: Rgb
    ambient: float
    frontal: float
    fill: float


@dataclass(frozen=True)
class Scene:
    """Everything a world is compiled from; table size is (width, depth) in m."""

    placements: tuple[ItemPlacement, ...]
    table: Backdrop
    floor: Backdrop
    wall: Backdrop
    table_size: tuple[float, float]
    lighting: Lighting
    seed: int = 0

    @property
    def backdrops(self) -> tuple[Backdrop, Backdrop, Backdrop]:
        """Table, floor, wall."""
        return self.table, self.floor, self.wall


@dataclass
class _TableLayout:
    """Places items one after the other so that they do not overlap."""

    dice: Dice
    crowding: float = 1.0
    placed: list[ItemPlacement] = field(default_factory=list)
    guests: dict[int, int] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        """Put the item on another one or on the table, or leave it out if there is no room."""
        host = self._host_for(item) if self.dice.chance(0.5) else None
        spot = self._beside(item) if host is None else self._upon(item, host)
        if spot is None:
            return
        lying = host is None and self.dice.chance(item.lies_down)
        yaw = self.dice.between(-0.5, 0.5) if item.faces_front else self.dice.between(-3.14, 3.14)
        # A robot's arm comes from the far side or from beside the table, never past the camera.
        yaw = self.dice.between(-2.6, -0.5) if item.fixed else yaw
        z = item.radius + 0.004 if lying else spot[2]
        self.placed.append(ItemPlacement(item, (spot[0], spot[1], z), yaw, lying, host))

    def _host_for(self, item: Item) -> int | None:
        like = [
            index
            for index, other in enumerate(self.placed)
            if item.kind == other.item.kind in STACKABLE
            and item.radius <= other.item.radius
            and not self.guests.get(index)
            and not other.lying
            and other.host is None
        ]
        if like:
            return self.dice.choose(like)
        if not item.small:
            return None
        fits = [
            index
            for index, other in enumerate(self.placed)
            if other.item.inner > item.radius * 1.02
            and self.guests.get(index, 0) < _FULL
            and not other.lying
            and other.host is None
        ]
        return self.dice.choose(fits) if fits else None

    def _upon(self, item: Item, host: int) -> tuple[float, float, float]:
        count = self.guests.get(host, 0)
        self.guests[host] = count + 1
        base = self.placed[host]
        if item.kind == base.item.kind:
            self.guests[host] = _FULL
            return *base.position[:2], base.item.height + 0.004
        angle, reach = count * 2.1 + self.dice.between(0, 1), base.item.inner * 0.45
        x = base.position[0] + reach * float(np.cos(angle))
        y = base.position[1] + reach * float(np.sin(angle))
        return x, y, base.item.height + 0.01 + 0.06 * count

    def _beside(self, item: Item) -> tuple[float, float, float] | None:
        reach = max(item.radius, item.height / 2 if item.lies_down else 0.0)
        for _ in range(40):
            angle, share = self.dice.between(-np.pi, np.pi), self.dice.between(0, 1) ** 0.5
            x, y = (
                CLUSTER[0] * self.crowding * share * float(np.cos(angle)),
                CLUSTER[1] * self.crowding * share * float(np.sin(angle)),
            )
            if all(self._clear(x, y, reach, other) for other in self.placed if other.host is None):
                return x, y, 0.003
        return None

    @staticmethod
    def _clear(x: float, y: float, reach: float, other: ItemPlacement) -> bool:
        room = reach + max(other.item.radius, other.item.height / 2 if other.lying else 0.0)
        gap = float(np.hypot(x - other.position[0], y - other.position[1]))
        return gap > 0.8 * room


def _draw_kinds(dice: Dice, count: int) -> list[str]:
    """Kinds for a scene: some repeat, bulky ones do not."""
    names = list(KINDS)
    kinds = [dice.choose(names) for _ in range(count)]
    for index in range(1, count):
        if dice.chance(_REPEAT_KIND):
            kinds[index] = kinds[int(dice.rng.integers(index))]
    return [
        kind for index, kind in enumerate(kinds) if kind not in BULKY or kind not in kinds[:index]
    ]


def place_items(dice: Dice, items: Sequence[Item]) -> tuple[ItemPlacement, ...]:
    """Place items, the widest first."""
    layout = _TableLayout(dice, crowding=dice.choose((0.7, 0.85, 1.0)))
    for item in sorted(items, key=lambda one: -one.radius):
        layout.add(item)
    return tuple(layout.placed)


def _draw_wood_tone(dice: Dice) -> str:
    if dice.held_back and dice.chance(0.7):
        return "walnut"
    return dice.choose([tone for tone in textures.WOOD_TONES if tone != "walnut"])


def _draw_wooden(dice: Dice, name: str, repeat: tuple[float, float]) -> Backdrop:
    planks = int(dice.rng.integers(1, 6)) if name == "table" else 6
    tone = _draw_wood_tone(dice)
    texture = textures.wood(dice.rng, tone, n=384, planks=planks)
    rgb = tuple(float(channel) / 255.0 for channel in texture.mean(axis=(0, 1)))
    look = SurfaceAppearance(
        "wooden", (rgb[0], rgb[1], rgb[2]), texture, 0.3, repeat, held_back=tone == "walnut"
    )
    return Backdrop(name, look, f"a wooden {name}")


def _draw_painted(dice: Dice, name: str, options: tuple[str, ...]) -> Backdrop:
    colour = dice.choose(options)
    rgb = draw_colour(colour, dice.rng)
    look = SurfaceAppearance(
        colour, rgb, textures.mottled(dice.rng, rgb, strength=0.03), 0.1, (2.0, 2.0)
    )
    return Backdrop(name, look, f"a {colour} {name}")


def _draw_tiled(dice: Dice, name: str, repeat: float) -> Backdrop:
    colour = dice.choose(("white", "light blue", "gray"))
    rgb = draw_colour(colour, dice.rng)
    texture = textures.tiles(dice.rng, rgb, count=4)
    return Backdrop(
        name,
        SurfaceAppearance(colour, rgb, texture, 0.5, (repeat, repeat)),
        f"a {colour} tiled {name}",
    )


def draw_table(dice: Dice) -> Backdrop:
    """A wooden, painted, marble or cloth-covered table."""
    style = dice.choose(("wood", "wood", "wood", "paint", "paint", "cloth", "marble"))
    if style == "wood":
        return _draw_wooden(dice, "table", (1.5, 1.5))
    if style == "paint":
        return _draw_painted(dice, "table", _TABLE_PAINT)
    if style == "marble":
        look = SurfaceAppearance("marble", (0.9, 0.9, 0.88), textures.marble(dice.rng), 0.7)
        return Backdrop("table", look, "a marble table")
    colour = dice.choose(_CLOTH)
    rgb, white = draw_colour(colour, dice.rng), draw_colour("white", dice.rng)
    look = SurfaceAppearance(
        colour, rgb, textures.tablecloth(dice.rng, white, rgb), 0.0, (1.5, 1.1)
    )
    return Backdrop("table", look, f"a {colour} and white checkered tablecloth")


def draw_floor(dice: Dice) -> Backdrop:
    """A wooden, tiled or plain floor."""
    style = dice.choose(("wood", "tiles", "plain"))
    if style == "wood":
        return _draw_wooden(dice, "floor", (6.0, 6.0))
    if style == "tiles":
        return _draw_tiled(dice, "floor", 5.0)
    return _draw_painted(dice, "floor", ("gray", "brown", "blue", "green"))


def draw_wall(dice: Dice) -> Backdrop:
    """A painted, brick or tiled wall; held-back scenes may have panels."""
    if dice.held_back and dice.chance(0.5):
        colour = dice.choose(("white", "light blue", "green"))
        rgb = draw_colour(colour, dice.rng)
        look = SurfaceAppearance(colour, rgb, textures.panels(rgb), 0.1, (4.0, 1.0), held_back=True)
        return Backdrop("wall", look, f"a {colour} wall")
    style = dice.choose(("paint", "paint", "paint", "brick", "tiles"))
    if style == "brick":
        look = SurfaceAppearance(
            "brick", (0.6, 0.33, 0.26), textures.bricks(dice.rng), 0.0, (5.0, 3.5)
        )
        return Backdrop("wall", look, "a brick wall")
    return (
        _draw_tiled(dice, "wall", 6.0)
        if style == "tiles"
        else _draw_painted(dice, "wall", _ROOM_PAINT)
    )


def draw_lighting(dice: Dice) -> Lighting:
    """One lamp from above, slightly warm or cool, and enough even light to read colours."""
    angle, reach = dice.between(-np.pi, np.pi), dice.between(0.5, 1.3)
    place = (reach * float(np.cos(angle)), reach * float(np.sin(angle)), dice.between(1.3, 2.1))
    strength, warmth = dice.between(0.36, 0.5), dice.between(-0.05, 0.05)
    key = (strength * (1 + warmth), strength, strength * (1 - warmth))
    return Lighting(
        place,
        key,
        ambient=dice.between(0.38, 0.47),
        frontal=dice.between(0.08, 0.16),
        fill=dice.between(0.16, 0.24),
    )


def draw_scene(seed: int, *, held_back: bool = False) -> Scene:
    """Draw a whole scene from a seed; held_back scenes show combinations kept from training."""
    dice = Dice(np.random.default_rng(seed), held_back=held_back)
    kinds = _draw_kinds(dice, int(dice.rng.integers(6, 14)))
    placements = place_items(dice, [draw_item(kind, dice) for kind in kinds])
    size = (dice.between(0.95, 1.3), dice.between(0.75, 0.95))
    table, floor, wall = draw_table(dice), draw_floor(dice), draw_wall(dice)
    return Scene(placements, table, floor, wall, size, draw_lighting(dice), seed)
