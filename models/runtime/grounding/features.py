"""What is known of one text and each candidate region, as named numbers for a logistic model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ureca.models.runtime.grounding.geometry import F32, Layout
from ureca.models.runtime.grounding.phrases import ParsedPhrase

I64 = npt.NDArray[np.int64]

_SENTENCE_FROM = 5


@dataclass(frozen=True, slots=True)
class Evidence:
    """One text and N candidates: scores f32 [N] of the engine, and where the candidates lie.
    `usual` is log P0 of the text in nats per token; `noun_bag` and `colour_bag` are the
    bag-of-words scores of its noun and of its colours; `clarity` f32 [N, 3] as in `TextScores`.
    `look_gap` is how much better the looks that are asked for (`ParsedPhrase.looks`) score than the
    best of all others, in nats; of several looks the worst counts.

    `fit` is NaN where it was not computed; `head_bag` is the bag-of-words score of the text's first
    noun phrase, `anchor_bag` that of the thing it is related to; `mask` 0..1 is the mask's own
    score.
    """

    phrase: ParsedPhrase
    layout: Layout
    bag: F32
    fit: F32
    head_bag: F32
    anchor_bag: F32 | None
    mask: F32
    tokens: int
    usual: float = 0.0
    noun_bag: F32 | None = None
    colour_bag: F32 | None = None
    look_gap: F32 | None = None
    anchor_look_gap: F32 | None = None
    """`look_gap` of the looks that the anchor says."""
    clarity: F32 | None = None


def _bag(evidence: Evidence) -> F32:
    return evidence.bag


def _fit(evidence: Evidence) -> F32:
    """Regions whose likelihood was not computed count as the worst that was."""
    if evidence.phrase.is_generic or np.isnan(evidence.fit).all():
        return np.zeros_like(evidence.bag)  # no caption says looks alone
    return np.asarray(
        np.where(np.isnan(evidence.fit), np.nanmin(evidence.fit), evidence.fit), np.float32
    )


def _relation(evidence: Evidence) -> F32:
    """The best anchor's score and how well the candidate stands to it, in nats below the best."""
    if evidence.phrase.relation is None or evidence.anchor_bag is None:
        return np.zeros_like(evidence.bag)
    anchor = evidence.anchor_bag - evidence.anchor_bag.max()
    best = (anchor[None] + evidence.layout.relation(evidence.phrase.relation)).max(axis=1)
    return np.asarray(best, np.float32)


def _find_anchor(evidence: Evidence) -> tuple[I64, F32] | None:
    """Of each candidate the anchor that it stands best to, i64 [N], and how well it does, in nats
    below 0, f32 [N]; None where the text names no anchor.
    """
    relation, bag = evidence.phrase.relation, evidence.anchor_bag
    if relation is None or bag is None:
        return None
    reach = evidence.layout.relation(relation)
    best = (bag[None] + reach).argmax(axis=1)
    return best, reach[np.arange(len(best)), best]


def _anchor(scores: F32 | None, evidence: Evidence) -> F32:
    """What `scores` [N] say of the anchor of each candidate: 0 without one."""
    found = _find_anchor(evidence)
    if found is None or scores is None:
        return np.zeros_like(evidence.bag)
    return np.asarray(scores[found[0]], np.float32)


def _anchor_look(evidence: Evidence) -> F32:
    """How much worse than another the looks fit that the anchor says, in nats below 0."""
    return np.minimum(_anchor(evidence.anchor_look_gap, evidence), 0)


def _reach(evidence: Evidence) -> F32:
    """How well the candidate stands to its anchor, whatever that is, in nats below 0."""
    found = _find_anchor(evidence)
    return np.zeros_like(evidence.bag) if found is None else found[1]


def _sentence(evidence: Evidence) -> np.float32:
    """1 for a text of at least five words: order and relations tell more than words."""
    return np.float32(len(evidence.phrase.scored.split()) >= _SENTENCE_FROM)


def _side(evidence: Evidence) -> F32:
    """How far the candidate lies to the side that is asked for, 0..1."""
    side = evidence.phrase.side
    return np.zeros_like(evidence.bag) if side is None else evidence.layout.extreme(side)


def _extreme(evidence: Evidence) -> F32:
    """How far the candidate lies to the end that a superlative asks for, 0..1."""
    end = evidence.phrase.extreme
    return np.zeros_like(evidence.bag) if end is None else evidence.layout.extreme(end)


def _is(kind: str, evidence: Evidence) -> float:
    """1 if the text asks for this kind of region: exactly one of them is."""
    phrase = evidence.phrase
    asked = "scene" if phrase.scenery and phrase.level != "part" else phrase.level or "thing"
    return float(kind == asked)


def _area(kind: str) -> Callable[[Evidence], F32]:
    return lambda e: np.asarray(_is(kind, e) * np.log(e.layout.area + 1e-4), np.float32)


def _nested(kind: str) -> Callable[[Evidence], F32]:
    return lambda e: np.asarray(_is(kind, e) * e.layout.nested, np.float32)


def _pieces(kind: str) -> Callable[[Evidence], F32]:
    return lambda e: np.asarray(_is(kind, e) * np.minimum(e.layout.pieces - 1, 3), np.float32)


_SURE_MIDDLE, _SURE_SPREAD = -2.34, 0.5
"""Negative entropy in nats half-way between photographs and worlds, and what counts as 1."""


def _sureness(evidence: Evidence) -> np.float32:
    """How sure the captioner is of its words on this picture, -2..2: the mean negative entropy of
    its read-out (nats), about -3.5 on photographs and -1.2 on the rendered worlds. The scores of a
    picture that it knows well are worth more.
    """
    if evidence.clarity is None:
        return np.float32(0)
    return np.float32(np.clip((evidence.clarity[:, 2].mean() - _SURE_MIDDLE) / _SURE_SPREAD, -2, 2))


def _if_sure(name: str) -> Callable[[Evidence], F32]:
    return lambda e: np.asarray(_sureness(e) * FEATURES[name](e), np.float32)


def _clarity(place: int) -> Callable[[Evidence], F32]:
    return lambda e: np.zeros_like(e.bag) if e.clarity is None else e.clarity[:, place]


def _plainness(evidence: Evidence) -> np.float32:
    """1 for a text that says nothing of looks. Captions do ("a red mug"), so that "a mug" alone is
    unlikely of the region that it is true of, and words count for more than the likelihood.
    """
    return np.float32(not evidence.phrase.looks)


def _if_plain(name: str) -> Callable[[Evidence], F32]:
    return lambda e: np.asarray(_plainness(e) * FEATURES[name](e), np.float32)


def _if_generic(name: str) -> Callable[[Evidence], F32]:
    """For a text that says looks alone."""
    return lambda e: np.asarray(np.float32(e.phrase.is_generic) * FEATURES[name](e), np.float32)


def _usual(evidence: Evidence) -> float:
    return 0.0 if evidence.phrase.is_generic else evidence.usual


_CLARITY = ("clarity_bag", "clarity_word", "clarity_entropy")
_IF_SURE = (
    *("bag", "fit", "head_bag", "noun_bag", "look_wrong", "relation", "usual"),
    *("anchor_bag", "anchor_look"),
)
_IF_PLAIN = ("bag", "fit", "noun_bag", "usual", "sure", "sure_fit", "sure_noun_bag")
_KINDS = ("part", "thing", "group", "scene")

FEATURES: Mapping[str, Callable[[Evidence], F32]] = {
    "bias": lambda e: np.ones_like(e.bag),
    "bag": _bag,
    "fit": _fit,
    "head_bag": lambda e: e.head_bag,
    "noun_bag": lambda e: e.bag if e.noun_bag is None else e.noun_bag,
    "colour_bag": lambda e: np.zeros_like(e.bag) if e.colour_bag is None else e.colour_bag,
    "look_gap": lambda e: np.zeros_like(e.bag) if e.look_gap is None else e.look_gap,
    "look_wrong": lambda e: np.minimum(FEATURES["look_gap"](e), 0),
    **{name: _clarity(place) for place, name in enumerate(_CLARITY)},
    "sentence_bag": lambda e: _bag(e) * _sentence(e),
    "sentence_fit": lambda e: _fit(e) * _sentence(e),
    "mask": lambda e: np.log(np.clip(e.mask, 1e-3, 1.0)),
    "tokens": lambda e: np.full_like(e.bag, np.log(max(1, e.tokens))),
    "usual": lambda e: np.full_like(e.bag, _usual(e)),
    "usual_total": lambda e: np.full_like(e.bag, _usual(e) * e.tokens / 4),
    "bag_mean": lambda e: np.full_like(e.bag, e.bag.mean()),
    "fit_mean": lambda e: np.full_like(e.bag, np.nanmean(e.fit) if _fit(e).any() else 0),
    **{f"generic_{name}": _if_generic(name) for name in ("bias", "bag", "look_gap")},
    "relation": _relation,
    "anchor_bag": lambda e: _anchor(e.anchor_bag, e),
    "anchor_look": _anchor_look,
    "anchor_reach": _reach,
    "is_placed": lambda e: np.full_like(e.bag, bool(e.phrase.anchor)),
    "side": _side,
    "extreme": _extreme,
    "sure": lambda e: np.full_like(e.bag, _sureness(e)),
    **{f"sure_{name}": _if_sure(name) for name in _IF_SURE},
    "plain": lambda e: np.full_like(e.bag, _plainness(e)),
    **{f"plain_{name}": _if_plain(name) for name in _IF_PLAIN},
    **{f"{kind}_area": _area(kind) for kind in _KINDS},
    **{f"{kind}_nested": _nested(kind) for kind in _KINDS},
    **{f"{kind}_pieces": _pieces(kind) for kind in _KINDS},
}
"""Functions of `Evidence` to f32 [N]; the weights in a manifest name these."""


def sigmoid(log_odds: F32) -> F32:
    """Probabilities of log odds in nats."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -60, 60))), np.float32)


def weighted(weights: Mapping[str, float], evidence: Evidence) -> F32:
    """The sum of the named features by their weights, f32 [N], in nats (log odds)."""
    total = np.zeros_like(evidence.bag)
    for name, weight in weights.items():
        total += np.float32(weight) * FEATURES[name](evidence)
    return total
