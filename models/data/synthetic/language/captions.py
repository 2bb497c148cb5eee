"""Writes names and sentences for the objects of a view; all are clearly true and checked for
uniqueness.

Sentences are tried in order of preference; the first that `judge.is_certain` accepts is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ureca.models.data.synthetic.language import vocabulary
from ureca.models.data.synthetic.language.facts import Sighting
from ureca.models.data.synthetic.language.judge import CLEAR_MARGIN, is_certain
from ureca.models.data.synthetic.language.truth import NodeTruth, Relation, ViewTruth
from ureca.models.data.synthetic.objects.parts import Item, ObjectPart

MAX_WORDS: Final = 14

_PLURAL: Final = frozenset({"handles", "tines", "pages", "buttons", "fingers"})
_NUMBERS: Final = {2: "two", 3: "three", 4: "four"}
_FEATURE_PIXELS: Final = 200
_ANCHORS: Final = 4


def add_article(noun: str) -> str:
    """Return a noun phrase with "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def format_part(part: ObjectPart) -> str:
    """Return a part as in "with ...": "a white handle", "black handles"."""
    phrase = f"{part.look.word} {part.name}"
    return phrase if part.name in _PLURAL else add_article(phrase)


def format_title(item: Item) -> str:
    """Return the canonical short name of an item: "a red mug", "a hammer with a wooden handle"."""
    if item.titled_by_part:
        return f"{add_article(item.kind)} with {format_part(item.parts[item.title_part])}"
    if item.look.word == item.kind:
        return add_article(item.kind)
    return add_article(f"{item.look.word} {item.kind}")


def list_part_names(item: Item, part: ObjectPart) -> list[str]:
    """Return short names of a part, the canonical one first."""
    # "the handle of a hammer with a red handle" repeats the part; the kind alone is better.
    by_part = item.titled_by_part and part is item.parts[item.title_part]
    owner = add_article(item.kind) if by_part else format_title(item)
    return [f"the {part.name} of {owner}", f"the {part.look.word} {part.name} of {owner}"]


class Writer:
    """Writes the captions of one view; seen are the items by node name."""

    def __init__(self, view: ViewTruth, seen: Sequence[Sighting]) -> None:
        self.view = view
        self._seen = {one.node: one for one in seen}
        self._titles = {one.node: _format_visible_title(one) for one in seen}
        self._anchor: dict[str, bool] = {}

    def short(self, node: NodeTruth) -> str:
        """Return the shortest name with its colour. It is true, but not always unique."""
        if node.type == "object":
            return self._titles[node.node]
        if node.type == "part":
            return f"the {node.part} of {self._owner(node)}"
        if node.type == "background":
            return add_article(node.look)
        return self._group_name(node)

    def long(self, node: NodeTruth) -> str | None:
        """Return one full sentence that fits only this node of the view; None if no sentence is
        certain.
        """
        options = (text for text in self._sentences(node) if len(text.split()) <= MAX_WORDS)
        return next((text for text in options if is_certain(self.view, node, text)), None)

    def _sentences(self, node: NodeTruth) -> Iterator[str]:
        if node.type == "object":
            yield from self._object_sentences(node)
        elif node.type == "part":
            yield from self._part_sentences(node)
        elif node.type == "group":
            yield from self._group_sentences(node)
        else:
            yield from self._backdrop_sentences(node)

    def _object_sentences(self, node: NodeTruth) -> Iterator[str]:
        base = self._titles[node.node]
        feature = self._feature(node)
        bases = [f"{base} lying on its side"] if "lying" in node.states else []
        bases += [base]
        for name in bases:
            yield from (f"{name} {place}" for place in self._own_places(node))
        yield from bases
        if feature:
            yield f"{base}{feature}"
        yield f"{base} closest to the camera"
        yield f"{base} farthest from the camera"
        for name in (base, f"{base}{feature}"):
            yield from (f"{name} {place}" for place in self._beside(node))

    def _part_sentences(self, node: NodeTruth) -> Iterator[str]:
        state = next(iter(node.states), "")
        # "the white handle of a white mug" repeats the colour.
        look = "" if node.look in self._owner(node).split(" with ")[0] else node.look
        name = " ".join(word for word in (state, look, node.part) if word)
        base = f"the {name} of {self._owner(node)}"
        yield base
        yield from (f"{base} {place}" for place in self._places(self.view.nodes[node.owner]))

    def _group_sentences(self, node: NodeTruth) -> Iterator[str]:
        base = self._group_name(node)
        if node.group == "holding":
            host = self.view.nodes[node.members[0]]
            yield from (f"{base} {place}" for place in self._places(host))
        else:
            names = [self._titles[member] for member in node.members]
            listed = " and ".join(names)
            plain = all(self.view.nodes[member].look for member in node.members)
            if len(set(names)) > 1 and plain:
                yield f"a stack of {listed}" if node.group == "stack" else listed
        yield base

    def _backdrop_sentences(self, node: NodeTruth) -> Iterator[str]:
        base = self.short(node)
        table = self.view.nodes.get("table")
        if node.node != "table":
            verb = "behind" if node.node == "wall" else "under"
            if table is not None:
                yield f"{base} {verb} {self.short(table)}"
        else:
            on_it = [one for one in self.view.nodes.values() if one.host == "table"]
            known = [self._titles[one.node] for one in on_it if self._is_anchor(one)]
            known = [name for name in known if " with " not in name]
            for count in (2, 1):
                if len(known) >= count:
                    yield f"{base} with {' and '.join(known[:count])} on it"
        yield base

    def _owner(self, node: NodeTruth) -> str:
        """Return the item of a part. Its identifying part is not repeated."""
        item = self._seen[node.owner].item
        by_part = item.titled_by_part and node.part == item.parts[item.title_part].name
        return add_article(item.kind) if by_part else self._titles[node.owner]

    def _feature(self, node: NodeTruth) -> str:
        """Return the first visible part with its own look: " with a white handle", or nothing."""
        one = self._seen[node.node]
        for part, pixels in zip(one.item.parts, one.part_pixels, strict=True):
            named = part.name in vocabulary.PART_NAMES and not one.item.titled_by_part
            if named and pixels >= _FEATURE_PIXELS and part.look.word != one.item.look.word:
                return f" with {format_part(part)}"
        return ""

    def _is_anchor(self, node: NodeTruth) -> bool:
        """Whether an item's short name identifies it."""
        if node.node not in self._anchor:
            name = self._titles[node.node]
            self._anchor[node.node] = node.annotated and is_certain(self.view, node, name)
        return self._anchor[node.node]

    def _places(self, node: NodeTruth) -> Iterator[str]:
        """Return all clear places of an item, the plainest first."""
        yield from self._own_places(node)
        yield from self._beside(node)

    def _own_places(self, node: NodeTruth) -> Iterator[str]:
        """Return what an item lies in or on, and the side of the image, which need no other
        items.
        """
        yield from self._within(node)
        yield from (one.name for one in _is_clear(node) if not one.anchor)

    def _beside(self, node: NodeTruth) -> Iterator[str]:
        """Return places beside other items, the nearest first.

        They come last, because the other item must be found and named as well.
        """
        anchored: dict[str, list[Relation]] = {}
        for one in _is_clear(node):
            if one.anchor not in ("", "table", node.host):
                anchored.setdefault(one.anchor, []).append(one)
        anchors = [self.view.nodes[name] for name in anchored]
        known = [anchor for anchor in anchors if self._is_anchor(anchor)]
        for anchor in sorted(known, key=lambda other: _compute_distance(node, other))[:_ANCHORS]:
            for one in anchored[anchor.node]:
                yield f"{_PREPOSITION.get(one.name, one.name)} {self._titles[anchor.node]}"

    def _within(self, node: NodeTruth) -> Iterator[str]:
        host = self.view.nodes.get(node.host)
        if host is not None and host.type == "object" and host.annotated:
            yield f"{node.prep} {self._titles[host.node]}"

    def _group_name(self, node: NodeTruth) -> str:
        members = [self.view.nodes[name] for name in node.members]
        if node.group == "holding":
            guests = " and ".join(self._titles[one.node] for one in members[1:])
            plain = " and ".join(add_article(one.kind) for one in members[1:])
            prep, host = members[1].prep, self._titles[members[0].node]
            full = f"{host} with {guests} {prep} it"
            simple = len(full.split()) <= MAX_WORDS - 2 and " with " not in guests
            return full if simple else f"{host} with {plain} {prep} it"
        nouns = vocabulary.make_plural(node.kind)
        looks = {one.look for one in members}
        shared = looks.pop() if len(looks) == 1 else ""
        if shared and shared != node.kind:
            nouns = f"{shared} {nouns}"
        count = f"{_NUMBERS[len(members)]} {nouns}"
        return f"a stack of {count}" if node.group == "stack" else count


_PREPOSITION: Final = {"left of": "to the left of", "right of": "to the right of"}


def _format_visible_title(one: Sighting) -> str:
    """Return the short name, without a look that is hardly visible."""
    return add_article(one.item.kind) if one.plain_title else format_title(one.item)


def _is_clear(node: NodeTruth) -> list[Relation]:
    return [one for one in node.relations if one.margin >= CLEAR_MARGIN]


def _compute_distance(one: NodeTruth, other: NodeTruth) -> float:
    across, up = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    return across * across + up * up
