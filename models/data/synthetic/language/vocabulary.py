"""The nouns and adjectives of captions: the true words of kinds, parts and looks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ureca.models.data.synthetic.objects.palette import COLOURS

NOUNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "mug": ("mug", "cup"),
        "bowl": ("bowl", "dish"),
        "plate": ("plate", "dish"),
        "can": ("can", "tin"),
        "pot": ("pot", "cooking pot", "saucepan"),
        "pan": ("pan", "frying pan", "skillet"),
        "teapot": ("teapot", "kettle"),
        "wrench": ("wrench", "spanner"),
        "marker": ("marker", "pen", "felt pen"),
        "remote control": ("remote control", "remote"),
        "drawer cabinet": ("drawer cabinet", "cabinet", "dresser", "chest of drawers"),
        "lamp": ("lamp", "table lamp"),
        "box": ("box", "carton", "cardboard box"),
        "cube": ("cube", "block"),
        "robot gripper": ("robot gripper", "gripper", "robot"),
        "tablecloth": ("tablecloth", "table", "cloth"),
    }
)
"""Nouns a person would accept for a kind; kinds that are missing go by their own name only."""

PART_NOUNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "handle": ("handle", "grip"),
        "handles": ("handles", "handle"),
        "cap": ("cap", "lid", "top"),
        "lid": ("lid", "cover", "top"),
        "top": ("top", "lid"),
        "knob": ("knob", "handle"),
        "fingers": ("fingers", "finger"),
        "shade": ("shade", "lampshade", "lamp shade"),
        "pole": ("pole", "stand"),
        "base": ("base", "bottom", "foot"),
        "center": ("center", "middle"),
        "rim": ("rim", "edge"),
        "frame": ("frame",),
        "tines": ("tines", "prongs"),
        "shaft": ("shaft",),
        "head": ("head",),
        "jaw": ("jaw", "head"),
        "scouring pad": ("scouring pad", "pad"),
    }
)
"""Nouns a person would accept for a part; a part that is missing goes by its own name only."""

PART_NAMES: Final = (
    "handle", "handles", "cap", "label", "top", "lid", "knob", "spout", "center", "rim", "base",
    "pole", "shade", "cover", "pages", "frame", "palm", "fingers", "arm", "stem", "bowl", "tines",
    "blade", "shaft", "head", "jaw", "scouring pad", "buttons", "power button", "bottom drawer",
    "middle drawer", "top drawer", "bottom drawer handle", "middle drawer handle",
    "top drawer handle",
)  # fmt: skip
"""Parts that captions may name; other parts of a mesh ("body") have no name people would use."""

PATTERNS: Final = frozenset({"striped", "checkered", "polka dot", "dotted", "zigzag", "tiled"})
MATERIALS: Final = frozenset({"wooden", "metal", "silver", "marble", "brick"})
STATES: Final = frozenset({"open", "closed", "lying", "standing"})
ADJECTIVES: Final = frozenset(COLOURS) | PATTERNS | MATERIALS | {"open", "closed"}
SYNONYMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "grey": "gray",
        "metallic": "metal",
        "wood": "wooden",
        "checked": "checkered",
        "chequered": "checkered",
        "dotted": "polka dot",
        "spotted": "polka dot",
        "upright": "standing",
        "shut": "closed",
    }
)

_MATERIAL_COLOURS: Final = MappingProxyType(
    {
        "wooden": frozenset({"wooden", "brown"}),
        "metal": frozenset({"metal", "silver", "gray"}),
        "marble": frozenset({"marble", "white"}),
        "brick": frozenset({"brick", "red", "brown"}),
    }
)
_DOUBTFUL: Final = MappingProxyType(
    {
        "blue": ("light blue",),
        "light blue": ("blue",),
        "gray": ("metal", "silver"),
        "metal": ("white",),
        "brown": ("wooden",),
        "wooden": ("orange", "yellow", "red"),
        "marble": ("gray",),
        "brick": ("orange",),
    }
)
_PLURALS: Final = MappingProxyType({"knife": "knives", "dish": "dishes", "box": "boxes"})


def list_nouns(kind: str) -> tuple[str, ...]:
    """Return nouns that are right for a kind, the canonical one first."""
    return NOUNS.get(kind, (kind,))


def list_part_nouns(part: str) -> tuple[str, ...]:
    """Return nouns that are right for a part, the canonical one first."""
    for place in ("top", "middle", "bottom"):
        # One drawer among several: without its place the name would fit the others too.
        if part == f"{place} drawer handle":
            return part, f"{place} handle", "drawer handle", "handle"
        if part == f"{place} drawer":
            return part, "drawer"
    return PART_NOUNS.get(part, (part,))


def make_plural(noun: str) -> str:
    """Return the plural of a noun: "mugs", "knives", "boxes"."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    return f"{noun}es" if noun.endswith(("ch", "sh", "x", "s")) else f"{noun}s"


def list_adjectives(look: str) -> tuple[str, ...]:
    """Return the single adjectives of a look's words: "red and white striped" has three."""
    found, rest = [], look
    for name in sorted(ADJECTIVES, key=len, reverse=True):
        if f" {name} " in f" {rest} ":
            found.append(name)
            rest = f" {rest} ".replace(f" {name} ", " ", 1).strip()
    return tuple(found)


def list_true_words(look: str) -> frozenset[str]:
    """Return adjectives that a person would call right for a look."""
    words: set[str] = set()
    for name in list_adjectives(look):
        words |= _MATERIAL_COLOURS.get(name, frozenset({name}))
    if "polka dot" in words:
        words.add("white" if "yellow" not in words else "black")
    return frozenset(words)


def list_doubtful_words(look: str) -> frozenset[str]:
    """Return adjectives that a person might still use for a look; they count against uniqueness
    only.
    """
    words = {more for name in list_adjectives(look) for more in _DOUBTFUL.get(name, ())}
    return frozenset(words) - list_true_words(look)
