"""Computes the facts of a rendered view: every visible node with its words and relations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ureca.models.data.synthetic.language import vocabulary
from ureca.models.data.synthetic.language.truth import GroupType, NodeTruth, Relation
from ureca.models.data.synthetic.language.vocabulary import PART_NAMES
from ureca.models.data.synthetic.objects.kinds import TELLING, UPRIGHT
from ureca.models.data.synthetic.objects.palette import HELD_BACK_PAIRS
from ureca.models.data.synthetic.objects.parts import Item, SurfaceAppearance
from ureca.models.data.synthetic.scenes.scene import Backdrop

SIDE_MARGIN: Final = 0.08
"""Clear gap between two centres, in picture widths, for "left of" and "right of"."""
DEPTH_MARGIN: Final = 0.07
"""Clear difference in distance (m) for "in front of" and "behind"."""
MIN_OBJECT_PIXELS: Final = 300
MIN_PART_PIXELS: Final = 170
MIN_SHOWN: Final = 0.3
"""Least visible share of an item's outline; below it the name is a guess."""
MAX_PART_SHARE: Final = 0.75
"""A part that covers more of its item's visible pixels cannot be told from the whole."""
LEAST_LOOK_SHARE: Final = 0.25
"""Share of an item's visible pixels that a look needs to be called the item's colour."""
_TELLING_PIXELS: Final = 30
_SPOKEN_PIXELS: Final = 60
_DOUBTFUL_FLOOR: Final = -0.6
_HIDDEN_PIXELS: Final = 30


@dataclass(frozen=True)
class Sighting:
    """One item as one view shows it.

    centre is the mask's (x, y) in picture widths and heights, depth the distance in m,
    part_pixels the visible pixels of every part, shown the visible share of its outline, host
    the index of the item it lies in or on, up the height of its own upward axis (1: upright,
    0: lying), on_table False for what fell off.
    """

    index: int
    item: Item
    pixels: int
    centre: tuple[float, float]
    depth: float
    part_pixels: tuple[int, ...]
    shown: float = 1.0
    host: int | None = None
    up: float = 1.0
    on_table: bool = True

    @property
    def node(self) -> str:
        """The node's name."""
        return f"o{self.index}"

    @property
    def plain_title(self) -> bool:
        """Whether so little of the titular part shows that its look must not be named."""
        part = self.part_pixels[self.item.title_part]
        least = _SPOKEN_PIXELS if self.item.titled_by_part else LEAST_LOOK_SHARE * self.pixels
        return part < least


def is_nameable(seen: Sighting) -> bool:
    """Whether enough of an item is visible to identify its kind."""
    item = seen.item
    if seen.pixels < MIN_OBJECT_PIXELS or not seen.on_table:
        return False
    telling = TELLING.get(item.kind, ())
    shown = {part.name: n for part, n in zip(item.parts, seen.part_pixels, strict=True)}
    if telling and max(shown.get(name, 0) for name in telling) < _TELLING_PIXELS:
        return False
    # A robot arm leaves the picture; its outline says nothing about how much is seen.
    return item.fixed or seen.shown >= MIN_SHOWN


def _is_held_back(item: Item, looks: Sequence[SurfaceAppearance]) -> bool:
    pair = (item.look.colour, item.kind) in HELD_BACK_PAIRS
    return pair or any(look.held_back for look in looks)


def _list_states(seen: Sighting) -> frozenset[str]:
    if seen.item.kind not in UPRIGHT:
        return frozenset()
    if abs(seen.up) < 0.35:
        return frozenset({"lying"})
    return frozenset({"standing"}) if seen.up > 0.9 else frozenset()


def _make_object_node(seen: Sighting, relations: tuple[Relation, ...]) -> NodeTruth:
    item = seen.item
    looks = [
        part.look
        for part, pixels in zip(item.parts, seen.part_pixels, strict=True)
        if pixels >= LEAST_LOOK_SHARE * seen.pixels or part.look is item.look
    ]
    said = frozenset().union(*(vocabulary.list_true_words(look.word) for look in looks))
    doubtful = frozenset().union(*(vocabulary.list_doubtful_words(look.word) for look in looks))
    on_table = "table" if seen.on_table else ""
    return NodeTruth(
        node=seen.node,
        type="object",
        kind=item.kind,
        nouns=vocabulary.list_nouns(item.kind),
        look="" if seen.plain_title or item.titled_by_part else item.look.word,
        words=said,
        doubtful=doubtful - said,
        host=on_table if seen.host is None else f"o{seen.host}",
        states=_list_states(seen),
        relations=relations,
        centre=seen.centre,
        depth=seen.depth,
        pixels=seen.pixels,
        held_back=_is_held_back(item, [part.look for part in item.parts]),
        annotated=is_nameable(seen),
    )


def _make_part_nodes(seen: Sighting) -> Iterator[NodeTruth]:
    whole = is_nameable(seen)
    for number, (part, pixels) in enumerate(zip(seen.item.parts, seen.part_pixels, strict=True)):
        if part.name in PART_NAMES and pixels >= _HIDDEN_PIXELS:
            plain = MIN_PART_PIXELS <= pixels <= MAX_PART_SHARE * seen.pixels
            yield NodeTruth(
                node=f"{seen.node}p{number}",
                type="part",
                kind=seen.item.kind,
                nouns=vocabulary.list_nouns(seen.item.kind),
                part=part.name,
                part_nouns=vocabulary.list_part_nouns(part.name),
                owner=seen.node,
                look=part.look.word,
                words=vocabulary.list_true_words(part.look.word),
                doubtful=vocabulary.list_doubtful_words(part.look.word),
                states=frozenset(part.states),
                depth=seen.depth,
                pixels=pixels,
                held_back=_is_held_back(seen.item, [part.look]),
                annotated=whole and plain,
            )


def _compute_margin(gap: float, unit: float, *, aside: float, clear: float, near: float) -> float:
    """A gap in units of its clear margin; less if the two are too far apart the other way."""
    margin = gap / unit
    if aside > near:
        return min(margin, 0.2)
    return min(margin, 0.9) if aside > clear else margin


def _list_pair_relations(one: Sighting, anchor: Sighting) -> Iterator[Relation]:
    across = one.centre[0] - anchor.centre[0]
    up, deep = abs(one.centre[1] - anchor.centre[1]), one.depth - anchor.depth
    for name, sign in (("left of", -1), ("right of", 1)):
        gap = _compute_margin(sign * across, SIDE_MARGIN, aside=up, clear=0.25, near=0.45)
        yield Relation(name=name, anchor=anchor.node, margin=round(gap, 2))
    for name, sign in (("in front of", -1), ("behind", 1)):
        gap = _compute_margin(sign * deep, DEPTH_MARGIN, aside=abs(across), clear=0.1, near=0.25)
        yield Relation(name=name, anchor=anchor.node, margin=round(gap, 2))


def _list_side_relations(one: Sighting) -> Iterator[Relation]:
    """Left or right in the image; doubtful up to near the middle."""
    x = one.centre[0]
    yield Relation(name="on the left", anchor="", margin=round((0.42 - x) / 0.12, 2))
    yield Relation(name="on the right", anchor="", margin=round((x - 0.58) / 0.12, 2))


def list_relations(one: Sighting, seen: Sequence[Sighting]) -> tuple[Relation, ...]:
    """Return all relations of an item that hold or nearly hold."""
    found = list(_list_side_relations(one))
    for other in seen:
        if other.index not in (one.index, one.host) and other.host != one.index:
            found += _list_pair_relations(one, other)
        if other.index == one.host:
            found.append(Relation(name=other.item.contents, anchor=other.node, margin=2.0))
    if one.on_table:
        margin = 2.0 if one.host is None else 0.5
        found.append(Relation(name="on", anchor="table", margin=margin))
    return tuple(relation for relation in found if relation.margin >= _DOUBTFUL_FLOOR)


def _make_group(name: str, group: GroupType, members: Sequence[NodeTruth]) -> NodeTruth:
    first = members[0]
    return NodeTruth(
        node=name,
        type="group",
        group=group,
        kind=first.kind,
        nouns=first.nouns,
        look=first.look,
        words=first.words if group == "holding" else frozenset(),
        doubtful=first.doubtful if group == "holding" else frozenset(),
        states=first.states if group == "holding" else frozenset(),
        members=tuple(member.node for member in members),
        relations=_list_common_sides(members) if group != "holding" else (),
        depth=float(np.mean([member.depth for member in members])),
        pixels=sum(member.pixels for member in members),
        held_back=any(member.held_back for member in members),
    )


def _list_common_sides(members: Sequence[NodeTruth]) -> tuple[Relation, ...]:
    """Return relations that every member has, with their least margin."""
    tables = [{(r.name, r.anchor): r.margin for r in member.relations} for member in members]
    shared = set.intersection(*(set(table) for table in tables))
    return tuple(
        Relation(name=name, anchor=anchor, margin=min(table[name, anchor] for table in tables))
        for name, anchor in sorted(shared)
    )


def _group_by_host(objects: dict[str, NodeTruth]) -> Iterator[tuple[GroupType, list[NodeTruth]]]:
    """Group hosts with the items in or on them; an item on its like is a stack."""
    for host in objects.values():
        guests = [one for one in objects.values() if one.host == host.node]
        if not 1 <= len(guests) <= 3 or not all(one.annotated for one in (host, *guests)):
            continue
        if len(guests) == 1 and guests[0].kind == host.kind:
            yield "stack", [guests[0], host]
        elif len(guests) <= 2:
            yield "holding", [host, *guests]


def make_groups(objects: dict[str, NodeTruth]) -> list[NodeTruth]:
    """Make the groups of a view: items with their contents, stacks, and all items of one kind."""
    found = list(_group_by_host(objects))
    stacked = {frozenset(m.node for m in members) for _, members in found}
    for kind in dict.fromkeys(one.kind for one in objects.values()):
        alike = [one for one in objects.values() if one.kind == kind]
        names = frozenset(one.node for one in alike)
        if 2 <= len(alike) <= 4 and all(one.annotated for one in alike) and names not in stacked:
            found.append(("set", alike))
    return [_make_group(f"g{number}", *one) for number, one in enumerate(found)]


def make_backdrop_node(backdrop: Backdrop, pixels: int, centre: tuple[float, float]) -> NodeTruth:
    """Make the node of table, floor or wall."""
    kind = backdrop.phrase.split()[-1]
    fixed = {"wall": "behind", "floor": "under"}
    around = fixed.get(backdrop.name)
    relations = (Relation(name=around, anchor="table", margin=2.0),) if around else ()
    return NodeTruth(
        node=backdrop.name,
        type="background",
        kind=backdrop.name,
        nouns=vocabulary.list_nouns(kind),
        look=backdrop.phrase.removeprefix("a "),
        words=vocabulary.list_true_words(backdrop.phrase),
        doubtful=vocabulary.list_doubtful_words(backdrop.phrase),
        relations=relations,
        centre=centre,
        pixels=pixels,
        held_back=backdrop.look.held_back,
    )


def make_nodes(seen: Sequence[Sighting], backdrops: Sequence[NodeTruth]) -> dict[str, NodeTruth]:
    """Make all nodes of a view by name."""
    objects = {}
    for one in seen:
        node = _make_object_node(one, list_relations(one, seen))
        hosts = [other.item.contents for other in seen if other.index == one.host]
        objects[one.node] = replace(node, prep=hosts[0] if hosts else "on")
    parts = [part for one in seen for part in _make_part_nodes(one)]
    nodes = [*objects.values(), *parts, *make_groups(objects), *backdrops]
    return {node.node: node for node in nodes}
