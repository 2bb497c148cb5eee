"""Panoptic quality of matched pictures: PQ = SQ x RQ, with 95 % intervals over pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ureca.models.evaluation.panoptic.cases import PanopticCase, TrueSegment
from ureca.models.evaluation.panoptic.matching import PictureMatches, PredictedSegment
from ureca.models.evaluation.text.phrase_parsing import (
    Accepted,
    find_accepted_names,
    is_headed_by,
)

_ROUNDS, _EDGES = 1000, (2.5, 97.5)
Json = dict[str, Any]  # JSON values


@dataclass(frozen=True, slots=True)
class PanopticCounts:
    """Sums over segments: IoU of the pairs, and how many were matched, missed and invented."""

    iou_sum: float = 0.0
    matched: int = 0
    missed: int = 0
    invented: int = 0

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.iou_sum + other.iou_sum,
            self.matched + other.matched,
            self.missed + other.missed,
            self.invented + other.invented,
        )

    @property
    def quality(self) -> float:
        """PQ: sum of matched IoUs over matched + (missed + invented) / 2; NaN of nothing."""
        half = self.matched + 0.5 * (self.missed + self.invented)
        return self.iou_sum / half if half else float("nan")

    def to_json(self) -> Json:
        """PQ, SQ, RQ and the counts; None where there is nothing to divide by."""
        half = self.matched + 0.5 * (self.missed + self.invented)
        return {
            "pq": _round(self.iou_sum / half) if half else None,
            "sq": _round(self.iou_sum / self.matched) if self.matched else None,
            "rq": _round(self.matched / half) if half else None,
            "matched": self.matched,
            "missed": self.missed,
            "invented": self.invented,
        }


def count_matches(matches: PictureMatches) -> PanopticCounts:
    """The counts of one picture."""
    iou = sum(pair.iou for pair in matches.pairs)
    return PanopticCounts(iou, len(matches.pairs), len(matches.missed), len(matches.invented))


def count_kind(matches: PictureMatches, *, stuff: bool) -> PanopticCounts:
    """The counts of things, or of stuff. A wrong segment counts as what it says it is."""
    pairs = [pair for pair in matches.pairs if pair.true.stuff == stuff]
    missed = sum(one.stuff == stuff for one in matches.missed)
    invented = sum(one.stuff == stuff for one in matches.invented)
    return PanopticCounts(sum(pair.iou for pair in pairs), len(pairs), missed, invented)


def sum_counts(counts: Iterable[PanopticCounts]) -> PanopticCounts:
    """All pictures together."""
    return sum(counts, PanopticCounts())


def compute_interval(counts: Sequence[PanopticCounts], *, seed: int) -> list[float] | None:
    """95 % interval of PQ by bootstrap over pictures; None for fewer than two."""
    if len(counts) < 2:
        return None
    rows = np.array([[c.iou_sum, c.matched, c.missed, c.invented] for c in counts])
    drawn = np.random.default_rng(seed).integers(0, len(rows), (_ROUNDS, len(rows)))
    sums = rows[drawn].sum(1)
    half = sums[:, 1] + 0.5 * (sums[:, 2] + sums[:, 3])
    low, high = np.percentile(sums[:, 0] / np.maximum(half, 1), _EDGES)
    return [_round(float(low)), _round(float(high))]


class HeadNouns:
    """The head noun of a caption as its class: right is the true class, a synonym that the lexicon
    lists, or a reference's own head noun.
    """

    def __init__(self) -> None:
        self._accepted: dict[tuple[str, tuple[str, ...]], Accepted] = {}

    def agrees(self, true: TrueSegment, predicted: PredictedSegment) -> bool:
        """Whether the caption names the true segment."""
        return is_headed_by(predicted.caption, self._accept(true.category, true.references))

    def count_classes(
        self, cases: Sequence[PanopticCase], matches: Sequence[PictureMatches]
    ) -> dict[str, PanopticCounts]:
        """Counts by class, where `matches` are pairs whose names agree. A wrong segment counts for
        the classes of all pictures that its caption names; one that names none counts nowhere.
        """
        known = {one.category for case in cases for one in case.segments if one.category}
        counts: dict[str, PanopticCounts] = defaultdict(PanopticCounts)
        for picture in matches:
            for pair in picture.pairs:
                counts[pair.true.category] += PanopticCounts(pair.iou, 1)
            for one in picture.missed:
                counts[one.category] += PanopticCounts(missed=1)
            for wrong in picture.invented:
                for name in known:
                    if is_headed_by(wrong.caption, self._accept(name, ())):
                        counts[name] += PanopticCounts(invented=1)
        return {name: counts[name] for name in sorted(known) if name in counts}

    def _accept(self, category: str, references: tuple[str, ...]) -> Accepted:
        key = category, references
        if key not in self._accepted:
            self._accepted[key] = find_accepted_names(category, references)
        return self._accepted[key]


def average_classes(counts: dict[str, PanopticCounts]) -> Json:
    """PQ, SQ and RQ as means over classes, as COCO reports them."""
    rows = [one.to_json() for one in counts.values()]
    means = {
        name: _round(float(np.mean([row[name] or 0.0 for row in rows]))) if rows else None
        for name in ("pq", "sq", "rq")
    }
    return {**means, "classes": len(rows)}


def _round(value: float) -> float:
    return round(value, 4)
