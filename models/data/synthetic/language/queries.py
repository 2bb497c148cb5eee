"""WorldsRES: texts about rendered views, and the regions that each of them means.

Every text was written for a region of some view. The judge decides for all nodes of a view whether
it holds there; texts for which a node is doubtful are left out, so that a right answer is right by
the pixels. The truth is the scene's, not the writer's: a text may mean several regions, and a text
of another view may mean none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ureca.models.data.queries import QueryKind, QueryRecord
from ureca.models.data.regions import RegionRecord
from ureca.models.data.synthetic.language.captions import add_article
from ureca.models.data.synthetic.language.grammar import parse_caption
from ureca.models.data.synthetic.language.judge import find_holders
from ureca.models.data.synthetic.language.truth import NodeTruth, ViewTruth
from ureca.models.data.synthetic.objects.palette import COLOURS

ABSENT_PER_VIEW: Final = 6
"""Texts of other views that mean nothing in this one; half of them `near`, where there are."""

StyledText = tuple[str, str]
"""A text and its style: `short`, `long`, or `name` for what a thing is without how it looks."""


def write_queries(
    views: Sequence[ViewTruth],
    records: Mapping[str, Sequence[RegionRecord]],
    *,
    names: bool = False,
) -> Iterator[QueryRecord]:
    """The queries of all views, view by view; `records` are the regions by `image_key`. With
    `names`, bare names are asked for too: "a mug", "the handle of a mug".

    A pure function of what it gets: the texts of other views are drawn by a hash.
    """
    pool = {text: style for rows in records.values() for text, style in _texts(rows)}
    bare = dict(text for text in map(_name, pool) if text is not None)
    for view in views:
        own = _texts(records.get(view.image_key, ()))
        found = [*_present(view, own), *_absent(view, pool)]
        if names:
            named = dict(text for text in map(_name, dict(own)) if text is not None)
            found += [*_present(view, list(named.items())), *_absent(view, bare)]
            found += _looks(view)
        for number, query in enumerate(found):
            yield query(f"{view.image_key}_q{number}")


class _Draft:
    """A query that has no number yet."""

    def __init__(self, view: ViewTruth, text: StyledText, nodes: Sequence[NodeTruth]) -> None:
        self._view, self._text, self._nodes = view, text, nodes
        self.near = False

    def __call__(self, query_id: str) -> QueryRecord:
        nodes, alternatives = _meant(self._nodes)
        return QueryRecord(
            query_id=query_id,
            image_key=self._view.image_key,
            text=self._text[0],
            targets=self._ids(node.node for node in nodes),
            alternatives=tuple(self._ids(names) for names in alternatives),
            kind=_kind(nodes),
            style=self._text[1],
            split=self._view.split,
            held_back=any(node.held_back for node in nodes),
            near=self.near,
        )

    def _ids(self, names: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{self._view.image_key}_{name}" for name in names)


def _texts(records: Sequence[RegionRecord]) -> list[StyledText]:
    short = [(text, "short") for record in records for text in record.short]
    long = [(text, "long") for record in records for text in record.long]
    return list({text: (text, style) for text, style in (*long, *short)}.values())


def _name(text: str) -> StyledText | None:
    """The bare name of what a text says; None of several things."""
    phrase = parse_caption(text)
    if phrase.count != 1 or phrase.joined or phrase.stack:
        return None
    if phrase.owner is None:
        return add_article(phrase.noun), "name"
    return f"the {phrase.noun} of {add_article(phrase.owner.noun)}", "name"


def _looks(view: ViewTruth) -> Iterator[_Draft]:
    """What has a colour ("a red thing"), of every colour, and one that nothing has."""
    nodes = list(view.nodes.values())
    absent = False
    for colour in sorted(COLOURS, key=lambda colour: _draw(view.image_key, colour)):
        meant = [node for node in nodes if colour in node.words and node.type != "group"]
        doubtful = any(
            colour in node.doubtful or not node.annotated
            for node in nodes
            if colour in node.words | node.doubtful
        )
        text = f"{add_article(colour)} thing", "name"
        if meant and not doubtful:
            yield _Draft(view, text, meant)
        elif not absent and not meant and not doubtful:
            absent = True
            yield _Draft(view, text, ())


def _present(view: ViewTruth, texts: Sequence[StyledText]) -> Iterator[_Draft]:
    for text in texts:
        found = find_holders(view, text[0])
        sure = found.plainly == found.possibly
        nodes = [view.nodes[name] for name in view.nodes if name in found.plainly]
        if nodes and sure and all(node.annotated for node in nodes):
            yield _Draft(view, text, nodes)


def _absent(view: ViewTruth, pool: Mapping[str, str]) -> Iterator[_Draft]:
    """Texts that hold for no node, not even a doubtful or an unmarked one."""
    nouns = {noun for node in view.nodes.values() for noun in (*node.nouns, *node.part_nouns)}
    drawn: dict[bool, list[_Draft]] = {True: [], False: []}
    for text in sorted(pool, key=lambda text: _draw(view.image_key, text)):
        near = _names_something(text, nouns)
        if len(drawn[near]) < ABSENT_PER_VIEW and not find_holders(view, text).possibly:
            draft = _Draft(view, (text, pool[text]), ())
            draft.near = near
            drawn[near].append(draft)
        if all(len(drafts) == ABSENT_PER_VIEW for drafts in drawn.values()):
            break
    half = ABSENT_PER_VIEW // 2
    yield from drawn[True][:half]
    yield from drawn[False][: ABSENT_PER_VIEW - len(drawn[True][:half])]


def _names_something(text: str, nouns: set[str]) -> bool:
    phrase = parse_caption(text)
    return phrase.noun in nouns and (phrase.owner is None or phrase.owner.noun in nouns)


def _draw(image_key: str, text: str) -> str:
    return hashlib.md5(f"{image_key}/{text}".encode(), usedforsecurity=False).hexdigest()


def _meant(nodes: Sequence[NodeTruth]) -> tuple[list[NodeTruth], list[tuple[str, ...]]]:
    """The nodes that a text means, and other sets that mean the same.

    "A plate with an apple on it" holds for the plate and for the group of both: the group is
    meant, the plate is as good. A set or a stack may be answered by its members.
    """
    groups = [node for node in nodes if node.group]
    hosts = {node.members[0] for node in groups if node.group == "holding"}
    meant = [node for node in nodes if node.node not in hosts]
    others: list[tuple[str, ...]] = []
    if hosts:
        others.append(tuple(_host_of(node, hosts) for node in meant))
    if len(meant) == 1 and meant[0].group in ("set", "stack"):
        others.append(meant[0].members)
    return meant, others


def _host_of(node: NodeTruth, hosts: set[str]) -> str:
    return node.members[0] if node.group == "holding" and node.members[0] in hosts else node.node


def _kind(nodes: Sequence[NodeTruth]) -> QueryKind:
    if not nodes:
        return "none"
    if len(nodes) > 1 or nodes[0].group in ("set", "stack"):
        return "several"
    return "part" if nodes[0].type == "part" else "thing"
