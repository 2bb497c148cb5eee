"""The registry of kinds: which function draws which kind."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from ureca.models.data.synthetic.objects import food, household, kitchen, tools
from ureca.models.data.synthetic.objects.parts import Dice, Item

Recipe = Callable[[Dice], Item]

KINDS: Final = MappingProxyType[str, Recipe](
    {
        "mug": kitchen.mug,
        "bowl": kitchen.bowl,
        "plate": kitchen.plate,
        "bottle": kitchen.bottle,
        "can": kitchen.can,
        "pot": kitchen.pot,
        "pan": kitchen.pan,
        "teapot": kitchen.teapot,
        "vase": kitchen.vase,
        "tray": kitchen.tray,
        "spoon": tools.spoon,
        "fork": tools.fork,
        "knife": tools.knife,
        "screwdriver": tools.screwdriver,
        "hammer": tools.hammer,
        "wrench": tools.wrench,
        "marker": tools.marker,
        "sponge": tools.sponge,
        "remote control": tools.remote,
        "drawer cabinet": household.drawer_cabinet,
        "lamp": household.lamp,
        "book": household.book,
        "box": household.carton,
        "cube": household.cube,
        "ball": household.ball,
        "cylinder": household.cylinder,
        "robot gripper": household.gripper,
        "apple": food.apple,
        "orange": food.orange,
        "pear": food.pear,
        "lemon": food.lemon,
        "banana": food.banana,
    }
)
"""Kind name to the function that draws one; the name is also the noun in captions."""

BULKY: Final = frozenset({"drawer cabinet", "tray", "lamp", "robot gripper"})
"""Kinds of which a scene holds at most one."""

TELLING: Final = MappingProxyType(
    {
        "mug": ("handle",),
        "bottle": ("cap",),
        "can": ("top",),
        "pot": ("handles",),
        "pan": ("handle",),
        "teapot": ("spout", "handle"),
        "spoon": ("bowl",),
        "fork": ("tines",),
        "knife": ("blade",),
        "screwdriver": ("shaft",),
        "hammer": ("head",),
        "wrench": ("jaw",),
        "lamp": ("shade",),
        "book": ("pages",),
        "sponge": ("scouring pad",),
        "remote control": ("buttons",),
        "robot gripper": ("fingers", "palm"),
    }
)
"""Parts of which one must show for the kind to be plain (a mug without its handle is a pot)."""

UPRIGHT: Final = frozenset({"bottle", "can"})
"""Kinds that may lie or stand and look different then."""

STACKABLE: Final = frozenset({"book", "plate", "cube", "box"})
"""Kinds that are put on top of their like now and then."""


def draw_item(kind: str, dice: Dice) -> Item:
    """Draw one item of a kind."""
    return KINDS[kind](dice)
