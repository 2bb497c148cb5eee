"""Text to regions: scores of the engine, computed geometry, and calibrated decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ureca.bundle import GroundingWeights
from ureca.datatypes import Mask, RegionInput
from ureca.engine import EncodedFrame, ScoringEngine
from ureca.models.runtime.grounding.decisions import choose
from ureca.models.runtime.grounding.features import Evidence, sigmoid, weighted
from ureca.models.runtime.grounding.geometry import F32, Layout
from ureca.models.runtime.grounding.phrases import (
    LOOKS,
    Level,
    ParsedPhrase,
    parse,
    split_conjunction,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A region that may be an answer. `mask` bool [H, W] of the frame's size; `score` 0..1 of the
    mask, 1 when a sender gave it; `key` is the caller's own name of it.
    """

    mask: Mask
    score: float = 1.0
    level: Level | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """An answer: the candidate's index, and the probability that the text is true of it."""

    index: int
    probability: float
    level: Level | None = None


@dataclass(frozen=True, slots=True)
class GroundingResult:
    """The answers to one text, best first; none when nothing is there, as sure as
    `none_probability` 0..1.
    """

    text: str
    none_probability: float
    regions: tuple[FoundRegion, ...] = ()


class Grounder:
    """Answers texts with regions of encoded frames."""

    def __init__(self, engine: ScoringEngine, weights: GroundingWeights) -> None:
        self._engine, self._weights = engine, weights
        self._measured: tuple[tuple[Mask, ...], Layout] | None = None

    def find(
        self,
        frame: EncodedFrame,
        candidates: Sequence[Candidate],
        texts: Sequence[str],
        *,
        level: Level | None = None,
    ) -> list[GroundingResult]:
        """One result for each text. `level` admits only parts, things or groups.

        Raises `RegionError` for a mask that is empty or not of the frame's size.
        """
        if not candidates:
            return [GroundingResult(text, 1.0) for text in texts]
        asked = {text: [parse(text), *map(parse, split_conjunction(text))] for text in texts}
        phrases = list(dict.fromkeys(phrase for parts in asked.values() for phrase in parts))
        layout = self._layout(candidates)
        known = self._evidence(frame, candidates, phrases, layout)
        found = dict(zip(phrases, self._decided(candidates, known, level), strict=True))
        return [_joined([found[phrase] for phrase in asked[text]], layout=layout) for text in texts]

    def evidence(
        self, frame: EncodedFrame, candidates: Sequence[Candidate], phrases: Sequence[ParsedPhrase]
    ) -> list[Evidence]:
        """What decisions are made from: what fitting reads."""
        layout = Layout.of([candidate.mask for candidate in candidates])
        return self._evidence(frame, candidates, phrases, layout)

    def _evidence(
        self,
        frame: EncodedFrame,
        candidates: Sequence[Candidate],
        phrases: Sequence[ParsedPhrase],
        layout: Layout,
    ) -> list[Evidence]:
        """What words and geometry say picks the regions whose likelihood is computed."""
        regions = [RegionInput(candidate.mask) for candidate in candidates]
        texts = [phrase.scored for phrase in phrases]
        words = _list_words(phrases)
        bags = self._engine.score(frame, regions, [*texts, *words], max_fit=0)
        by_text = dict(zip([*texts, *words], bags.bag, strict=True))
        mask = np.array([candidate.score for candidate in candidates], np.float32)
        plain = [
            _make_evidence(phrase, by_text, bags.clarity, layout=layout, mask=mask)
            for phrase in phrases
        ]
        order = np.stack([weighted(self._weights.place, known) for known in plain])
        told = self._engine.score(frame, regions, texts, max_fit=self._weights.max_fit, order=order)
        usual = np.zeros(len(texts)) if told.usual is None else told.usual
        return [
            replace(one, fit=told.fit[row], tokens=int(told.tokens[row]), usual=float(usual[row]))
            for row, one in enumerate(plain)
        ]

    def _layout(self, candidates: Sequence[Candidate]) -> Layout:
        """The same masks are measured once, as long as they are asked about in turn."""
        masks = tuple(candidate.mask for candidate in candidates)
        last = self._measured
        if last is None or list(map(id, last[0])) != list(map(id, masks)):
            self._measured = last = masks, Layout.of(masks)
        return last[1]

    def _decided(
        self, candidates: Sequence[Candidate], evidence: Sequence[Evidence], level: Level | None
    ) -> list[GroundingResult]:
        results = []
        for known in evidence:
            place = weighted(self._weights.place, known)
            truth = sigmoid(weighted(self._weights.presence, known))
            levels = [_level(candidate, known, i) for i, candidate in enumerate(candidates)]
            if level is not None:
                place = np.where([own == level for own in levels], place, -np.inf)
            chosen = choose(place, truth, known, self._weights)
            possible = truth[np.isfinite(place)]
            results.append(
                GroundingResult(
                    known.phrase.text,
                    float(1 - possible.max()) if possible.size else 1.0,
                    tuple(FoundRegion(i, float(truth[i]), levels[i]) for i in chosen),
                )
            )
        return results


def _list_words(phrases: Sequence[ParsedPhrase]) -> list[str]:
    """The parts of phrases that have scores of their own."""
    parts = [text for p in phrases for text in (p.head, p.anchor, p.noun, p.colours) if text]
    looks = sorted(LOOKS) if any(p.looks or p.anchor_looks for p in phrases) else []
    return list(dict.fromkeys([*parts, *looks]))


def _make_evidence(
    phrase: ParsedPhrase,
    bags: dict[str, F32],
    clarity: F32 | None,
    *,
    layout: Layout,
    mask: F32,
) -> Evidence:
    """Without likelihoods, which cost a pass."""
    bag = bags[phrase.scored]
    return Evidence(
        phrase=phrase,
        layout=layout,
        bag=bag,
        fit=np.full_like(bag, np.nan),
        head_bag=bags[phrase.head],
        anchor_bag=bags.get(phrase.anchor),
        mask=mask,
        tokens=0,
        noun_bag=bags.get(phrase.noun),
        colour_bag=bags.get(phrase.colours),
        look_gap=_compare_looks(phrase.looks, bags),
        anchor_look_gap=_compare_looks(phrase.anchor_looks, bags),
        clarity=clarity,
    )


def _compare_looks(looks: Sequence[str], bags: dict[str, F32]) -> F32 | None:
    """`Evidence.look_gap`; None when no looks are asked for."""
    if not looks:
        return None
    others = np.max([bags[word] for word in LOOKS.difference(looks)], axis=0)
    return np.asarray(np.min([bags[word] for word in looks], axis=0) - others, np.float32)


def _level(candidate: Candidate, known: Evidence, index: int) -> Level:
    """The candidate's own level, else by nesting: what lies in one twice its size is a part."""
    if candidate.level is not None:
        return candidate.level
    return "part" if known.layout.nested[index] else "thing"


def _joined(results: Sequence[GroundingResult], *, layout: Layout) -> GroundingResult:
    """The answer to a whole text, then those to its parts if it says "A and B". One region that
    holds both is the answer if the whole text fits it; else the answers of both parts, or none.
    """
    whole, *parts = results
    one_mask = whole.regions and layout.pieces[whole.regions[0].index] > 1
    if len(parts) == 1 or one_mask:
        return whole
    best: dict[int, FoundRegion] = {}
    for region in (region for part in parts for region in part.regions):
        if region.index not in best or best[region.index].probability < region.probability:
            best[region.index] = region
    regions = tuple(sorted(best.values(), key=lambda region: -region.probability))
    absent = max(part.none_probability for part in parts)
    return GroundingResult(whole.text, absent, regions if all(p.regions for p in parts) else ())
