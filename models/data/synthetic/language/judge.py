"""Judges captions by the truth of a view: any true and unique phrase is right.

`judge_caption(view, node, caption)` is the entry point; `docs/worlds.md` describes the slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Final

from ureca.models.data.synthetic.language.grammar import Phrase, UnreadableError, parse_caption
from ureca.models.data.synthetic.language.truth import TRUE_MARGIN, NodeTruth, ViewTruth
from ureca.models.data.synthetic.language.vocabulary import STATES

CLEAR_MARGIN: Final = 1.0
DOUBTFUL_MARGIN: Final = -0.5
_DEPTH_UNIT: Final = 0.07
"""Clear difference in distance (m); the same unit as `dataclass_fields.DEPTH_MARGIN`."""

Verdict = bool | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is right about a caption; None: the caption (or the region) has no such slot.

    readable: the grammar covers the caption; if not, kind and part count as wrong. true: it is
    readable, names the region's kind or part, and everything said holds. unique: true, and true
    of no other annotated region of the view.
    """

    readable: bool
    kind_right: Verdict = None
    part_right: Verdict = None
    colour_true: Verdict = None
    relation_true: Verdict = None
    containment_true: Verdict = None
    state_true: Verdict = None
    true: bool = False
    unique: bool = False


@dataclass(frozen=True)
class _Strictness:
    """How clear a fact must be; doubtful words count when `doubtful` is set."""

    margin: float
    doubtful: bool = False


TRUE: Final = _Strictness(TRUE_MARGIN)
CLEAR: Final = _Strictness(CLEAR_MARGIN)
DOUBTFUL: Final = _Strictness(DOUBTFUL_MARGIN, doubtful=True)


def _combine(verdicts: Iterable[Verdict]) -> Verdict:
    """Return False if any is False, True if any is True, None if nothing was said."""
    said = [verdict for verdict in verdicts if verdict is not None]
    return all(said) if said else None


class _PhraseJudge:
    """Judges phrases about the nodes of one view at one strictness."""

    def __init__(self, view: ViewTruth, strictness: _Strictness) -> None:
        self.view = view
        self.strictness = strictness

    def slots(self, phrase: Phrase, node: NodeTruth) -> Judgement:
        """All slots of a phrase about a node, uniqueness aside."""
        if node.group in ("set", "stack"):
            found = self._set_slots(phrase, node)
        else:
            found = self._single_slots(phrase, node)
        verdicts = (
            found.colour_true,
            found.relation_true,
            found.containment_true,
            found.state_true,
        )
        named = _combine((found.kind_right, found.part_right)) is True
        return replace(found, true=named and _combine(verdicts) is not False)

    def holds(self, phrase: Phrase, node: NodeTruth) -> bool:
        """Whether all of a phrase is true of a node."""
        return self.slots(phrase, node).true

    def _single_slots(self, phrase: Phrase, node: NodeTruth) -> Judgement:
        colours = [self._words(phrase, node), *(self._feature(f, node) for f in phrase.features)]
        owner = self.view.nodes.get(node.owner)
        kind: Verdict = phrase.noun in node.nouns
        part: Verdict = None
        if node.type == "part":
            part = phrase.noun in node.part_nouns
            kind = None if phrase.owner is None else self._names(phrase.owner, owner)
            colours.append(self._of(phrase.owner, owner))
        elif phrase.owner is not None:
            kind = False
        odd = phrase.count != 1 or phrase.joined or phrase.stack
        plural_part = node.type == "part" and not phrase.joined and not phrase.stack
        return Judgement(
            readable=True,
            kind_right=False if odd and not plural_part else kind,
            part_right=part,
            colour_true=_combine(colours),
            relation_true=self._relations(phrase, node),
            containment_true=self._containment(phrase, node),
            state_true=self._states(phrase, node),
        )

    def _set_slots(self, phrase: Phrase, node: NodeTruth) -> Judgement:
        members = [self.view.nodes[name] for name in node.members]
        each = [replace(phrase, count=1, joined=(), stack=False, relations=())]
        listed = [*each, *phrase.joined]
        named = phrase.noun in node.nouns and phrase.stack <= (node.group == "stack")
        if phrase.joined:
            named = named and len(listed) == len(members) and phrase.count == 1
            fits = any(
                all(self.holds(one, member) for one, member in zip(order, members, strict=True))
                for order in permutations(listed)
                if len(order) == len(members)
            )
            colour: Verdict = fits
        else:
            named = named and phrase.count == len(members)
            colour = _combine(self._words(each[0], member) for member in members)
        return Judgement(
            readable=True,
            kind_right=named,
            colour_true=colour,
            relation_true=self._relations(phrase, node),
        )

    def _names(self, phrase: Phrase, node: NodeTruth | None) -> bool:
        return node is not None and phrase.noun in node.nouns and phrase.count == 1

    def _of(self, phrase: Phrase | None, owner: NodeTruth | None) -> Verdict:
        """The adjectives and telling parts of "of a ...", about a part's item."""
        if phrase is None or owner is None:
            return None
        features = [self._feature(feature, owner) for feature in phrase.features]
        return _combine([self._words(phrase, owner), self._states(phrase, owner), *features])

    def _words(self, phrase: Phrase, node: NodeTruth) -> Verdict:
        said = set(phrase.adjectives) - STATES
        known = node.words | (node.doubtful if self.strictness.doubtful else frozenset())
        return said <= known if said else None

    def _states(self, phrase: Phrase, node: NodeTruth) -> Verdict:
        said = set(phrase.adjectives) & STATES
        return said <= node.states if said else None

    def _feature(self, feature: Phrase, node: NodeTruth) -> bool:
        """Whether an item has such a part: "with a white handle", "with an open top drawer"."""
        return any(
            feature.noun in part.part_nouns
            and self._words(feature, part) is not False
            and self._states(feature, part) is not False
            for part in self.view.nodes.values()
            if part.type == "part" and part.owner == node.node
        )

    def _stands_for(self, node: NodeTruth) -> NodeTruth:
        """Return the node whose place counts: an item for its part, the host for a group."""
        if node.type == "part":
            return self.view.nodes.get(node.owner, node)
        return self.view.nodes[node.members[0]] if node.group == "holding" else node

    def _relations(self, phrase: Phrase, node: NodeTruth) -> Verdict:
        verdicts: list[Verdict] = [
            self._related(name, anchor, node)
            for name, anchor in phrase.relations
            if name not in ("in", "on")
        ]
        if phrase.superlative:
            verdicts.append(self._superlative(phrase, node))
        return _combine(verdicts)

    def _related(self, name: str, anchor: Phrase | None, node: NodeTruth) -> bool:
        return any(
            relation.name == name
            and relation.margin >= self.strictness.margin
            and self._is_anchor(anchor, relation.anchor)
            for relation in self._stands_for(node).relations
        )

    def _is_anchor(self, phrase: Phrase | None, name: str) -> bool:
        if phrase is None or not name:
            return phrase is None and not name
        anchor = self.view.nodes.get(name)
        return anchor is not None and self.holds(phrase, anchor)

    def _superlative(self, phrase: Phrase, node: NodeTruth) -> bool:
        """Nearest or farthest of all nodes that the rest of the phrase fits."""
        base = replace(phrase, superlative="")
        own = self._stands_for(node).depth
        near = phrase.superlative == "closest"
        gaps = [
            (self._stands_for(other).depth - own) * (1 if near else -1)
            for other in self.view.nodes.values()
            if other.node != node.node and other.type == node.type and self.holds(base, other)
        ]
        return all(gap >= self.strictness.margin * _DEPTH_UNIT for gap in gaps)

    def _containment(self, phrase: Phrase, node: NodeTruth) -> Verdict:
        inside = [self._holds_things(prep, things, node) for prep, things in phrase.inside]
        within = [
            self._related(name, anchor, node)
            for name, anchor in phrase.relations
            if name in ("in", "on")
        ]
        # A group that shows contents must be called by them, or the vessel alone is meant.
        missing = [False] if node.group == "holding" and not inside else []
        return _combine([*inside, *within, *missing])

    def _holds_things(self, prep: str, things: tuple[Phrase, ...], node: NodeTruth) -> bool:
        host = self._stands_for(node).node
        guests = [g for g in self.view.nodes.values() if g.host == host and g.prep == prep]
        return any(
            all(self.holds(thing, guest) for thing, guest in zip(things, order, strict=True))
            for order in permutations(guests[:6], min(len(things), len(guests)))
            if len(order) == len(things)
        )


def _are_related(one: NodeTruth, other: NodeTruth) -> bool:
    """Whether one is a group and the other the item after which it is named; both mean the same."""
    return "holding" in (one.group, other.group) and (
        one.node in other.members[:1] or other.node in one.members[:1]
    )


def list_rivals(view: ViewTruth, node: NodeTruth) -> Iterator[NodeTruth]:
    """Return all other nodes of a view that a phrase about this one must not fit."""
    for other in view.nodes.values():
        if other.node != node.node and not _are_related(node, other):
            yield other


def judge_caption(view: ViewTruth, node: str, caption: str) -> Judgement:
    """Judge a caption about a node ("o3", "o3p1", "g0", "table") of a view.

    Raises `KeyError` when the view has no such node; never raises for a caption.
    """
    own = view.nodes[node]
    try:
        phrase = parse_caption(caption)
    except UnreadableError:
        part = False if own.type == "part" else None
        return Judgement(readable=False, kind_right=False, part_right=part)
    court = _PhraseJudge(view, TRUE)
    found = court.slots(phrase, own)
    others = (other for other in list_rivals(view, own) if other.annotated)
    unique = found.true and not any(court.holds(phrase, other) for other in others)
    return replace(found, unique=unique)


def is_certain(view: ViewTruth, node: NodeTruth, caption: str) -> bool:
    """Whether a caption clearly holds for a node and, counted generously, for no other one."""
    phrase = parse_caption(caption)
    if not _PhraseJudge(view, CLEAR).holds(phrase, node):
        return False
    court = _PhraseJudge(view, DOUBTFUL)
    return not any(court.holds(phrase, other) for other in list_rivals(view, node))


@dataclass(frozen=True)
class Holders:
    """The nodes a caption holds for: `plainly` as judged, `possibly` counted generously."""

    plainly: frozenset[str]
    possibly: frozenset[str]


def find_holders(view: ViewTruth, caption: str) -> Holders:
    """All nodes of a view for which a caption holds; annotated or not.

    Raises `UnreadableError` for a caption that the grammar does not cover.
    """
    phrase = parse_caption(caption)

    def found(strictness: _Strictness) -> frozenset[str]:
        court = _PhraseJudge(view, strictness)
        return frozenset(name for name, node in view.nodes.items() if court.holds(phrase, node))

    return Holders(found(TRUE), found(DOUBTFUL))
