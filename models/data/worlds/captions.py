"""Names and sentences for what a view shows, all true of the pixels and checked for uniqueness.

A sentence is built from clauses. Each clause knows for which other things it might also hold
(counted generously), so a sentence is kept only if no look-alike could be meant by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ureca.models.data.worlds.parts import Item, Part

SIDE_MARGIN: Final = 0.08
"""Least gap between two centres, in picture widths, for "left of" and "right of"."""
DEPTH_MARGIN: Final = 0.07
"""Least difference in distance (m) for "in front of" and "behind"."""

_PLURAL: Final = frozenset({"handles", "tines", "pages", "buttons", "fingers"})
_PART_PIXELS: Final = 120


@dataclass(frozen=True)
class Sighting:
    """One item as one view shows it.

    centre is the mask's (x, y) in picture widths and heights, depth the distance in m, host the
    index of the item it lies in or on, part_pixels the visible pixels of every part.
    """

    index: int
    item: Item
    pixels: int
    centre: tuple[float, float]
    depth: float
    part_pixels: tuple[int, ...]
    host: int | None = None


@dataclass(frozen=True)
class Clause:
    """Words that tell a thing from its look-alikes, and the indices it might also hold for."""

    text: str
    also: frozenset[int]


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun phrase."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def part_phrase(part: Part, *, look: bool) -> str:
    """A part without its article: "handle" or "white handle"."""
    return f"{part.look.word} {part.name}" if look else part.name


def indefinite_part(part: Part) -> str:
    """A part as in "with ...": "a white handle", "black handles"."""
    phrase = part_phrase(part, look=True)
    return phrase if part.name in _PLURAL else with_article(phrase)


def title(item: Item) -> str:
    """The canonical short name of an item: "a red mug", "a hammer with a wooden handle"."""
    if item.titled_by_part:
        return f"{with_article(item.kind)} with {indefinite_part(item.parts[item.title_part])}"
    if item.look.word == item.kind:
        return with_article(item.kind)
    return with_article(f"{item.look.word} {item.kind}")


def short_names(item: Item) -> list[str]:
    """Short names of an item, the canonical one first."""
    return list(dict.fromkeys([title(item), with_article(item.kind)]))


def part_names(item: Item, part: Part) -> list[str]:
    """Short names of a part, the canonical one first."""
    owner = title(item)
    # "the handle of a hammer with a red handle" says it twice; the bare kind is plainer.
    if item.titled_by_part and part is item.parts[item.title_part]:
        owner = with_article(item.kind)
    bare, full = f"the {part.name} of {owner}", f"the {part_phrase(part, look=True)} of {owner}"
    return list(dict.fromkeys([bare, full, indefinite_part(part)]))


def look_alikes(sighting: Sighting, others: Sequence[Sighting]) -> frozenset[int]:
    """Indices of other items of the same kind that share a word of their looks."""
    words = set(sighting.item.look.word.split())
    return frozenset(
        other.index
        for other in others
        if other.index != sighting.index
        and other.item.kind == sighting.item.kind
        and words & set(other.item.look.word.split())
    )


def _containment(one: Sighting, others: Sequence[Sighting]) -> list[Clause]:
    hosts = [other for other in others if other.index == one.host]
    if not hosts:
        return []
    host = hosts[0]
    guests = frozenset(other.index for other in others if other.host == host.index)
    return [Clause(f"{host.item.contents} {title(host.item)}", guests)]


def _beside(one: Sighting, anchor: Sighting, others: Sequence[Sighting]) -> list[Clause]:
    """Left or right of an anchor, if both are about equally far and clearly apart."""
    gap = one.centre[0] - anchor.centre[0]
    if abs(gap) < SIDE_MARGIN or abs(one.centre[1] - anchor.centre[1]) > 0.25:
        return []
    left = gap < 0
    also = frozenset(o.index for o in others if (o.centre[0] < anchor.centre[0]) == left)
    return [Clause(f"to the {'left' if left else 'right'} of {title(anchor.item)}", also)]


def _along(one: Sighting, anchor: Sighting, others: Sequence[Sighting]) -> list[Clause]:
    """In front of or behind an anchor, if it is clearly nearer or farther and in line."""
    gap = one.depth - anchor.depth
    if abs(gap) < DEPTH_MARGIN or abs(one.centre[0] - anchor.centre[0]) > 0.1:
        return []
    near = gap < 0
    also = frozenset(o.index for o in others if (o.depth < anchor.depth) == near)
    return [Clause(f"{'in front of' if near else 'behind'} {title(anchor.item)}", also)]


def _on_side(one: Sighting, others: Sequence[Sighting]) -> list[Clause]:
    """Left or right in the picture; doubtful for everything up to near the middle."""
    x = one.centre[0]
    if x < 0.3:
        return [Clause("on the left", frozenset(o.index for o in others if o.centre[0] < 0.42))]
    if x > 0.7:
        return [Clause("on the right", frozenset(o.index for o in others if o.centre[0] > 0.58))]
    return []


def _extreme(one: Sighting, others: Sequence[Sighting]) -> list[Clause]:
    """Closest or farthest of its look-alikes, with a clear margin to the next one."""
    gaps = {o.index: o.depth - one.depth for o in others if o.index in look_alikes(one, others)}
    nearer = frozenset(index for index, gap in gaps.items() if gap < DEPTH_MARGIN)
    farther = frozenset(index for index, gap in gaps.items() if gap > -DEPTH_MARGIN)
    return [Clause("closest to the camera", nearer), Clause("farthest from the camera", farther)]


def _distance(one: Sighting, other: Sighting) -> float:
    across, up = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    return across * across + up * up


def clauses(one: Sighting, others: Sequence[Sighting]) -> list[Clause]:
    """All clauses that hold for a sighting, the most telling first."""
    anchors = [
        other
        for other in others
        if other.index not in (one.index, one.host)
        and not look_alikes(other, others)
        # An anchor of the same kind and look would make the sentence chase its own tail.
        and title(other.item) != title(one.item)
    ]
    found = _containment(one, others)
    for anchor in sorted(anchors, key=lambda other: _distance(one, other))[:4]:
        if anchor.host != one.index:
            found += _beside(one, anchor, others) + _along(one, anchor, others)
    return found + _on_side(one, others)


def _feature(sighting: Sighting) -> str:
    """The first visible part with a look of its own: " with a white handle", or nothing."""
    item = sighting.item
    if item.titled_by_part:
        return ""
    for part, pixels in zip(item.parts, sighting.part_pixels, strict=True):
        if pixels >= _PART_PIXELS and part.look.word != item.look.word and part.name != "body":
            return f" with {indefinite_part(part)}"
    return ""


def telling_clause(one: Sighting, others: Sequence[Sighting]) -> Clause | None:
    """The first clause that rules out every look-alike, or None if there is no such clause."""
    rivals = look_alikes(one, others)
    options = clauses(one, others) + (_extreme(one, others) if rivals else [])
    return next((clause for clause in options if not clause.also & rivals), None)


def long_names(one: Sighting, others: Sequence[Sighting]) -> list[str]:
    """One full sentence that fits only this item of the view; empty if none is certain."""
    clause = telling_clause(one, others)
    base = title(one.item) + _feature(one)
    if clause is not None:
        return [f"{base} {clause.text}"]
    return [] if look_alikes(one, others) else [base]


def long_part_names(part: Part, one: Sighting, others: Sequence[Sighting]) -> list[str]:
    """One full sentence that fits only this part of the view; empty if none is certain."""
    clause = telling_clause(one, others)
    if clause is None and look_alikes(one, others):
        return []
    by_part = one.item.titled_by_part and part is one.item.parts[one.item.title_part]
    owner = with_article(one.item.kind) if by_part else title(one.item)
    base = f"the {part_phrase(part, look=True)} of {owner}"
    return [f"{base} {clause.text}" if clause is not None else base]


def long_backdrop(name: str, phrase: str, *, table: str, seen: Sequence[Sighting]) -> list[str]:
    """A full sentence for table, floor or wall; phrase is its short caption."""
    if name == "wall":
        return [f"{phrase} behind {table}"]
    if name == "floor":
        return [f"{phrase} under {table}"]
    known = [title(one.item) for one in seen if one.host is None and not look_alikes(one, seen)][:2]
    return [f"{phrase} with {' and '.join(known)} on it"] if known else [phrase]
