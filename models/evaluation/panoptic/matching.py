"""Pairs of true and predicted segments of one picture, as COCO's panoptic quality pairs them.

A pair has an IoU above .5; pixels that nobody annotated (void) and crowds do not count in it. A
predicted segment without a partner is not wrong if more than half of it lies there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ureca.models.evaluation.panoptic.cases import I64, PanopticCase, TrueSegment

LEAST_IOU = 0.5
_VOID = 0


@dataclass(frozen=True, slots=True)
class PredictedSegment:
    """One predicted segment: its number in the map, and its caption or the reason for none. Its
    class where the system that predicted it has classes.
    """

    number: int
    caption: str = ""
    reason: str = ""
    score: float = 1.0
    category: str = ""
    stuff: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a system says of one picture: ids i64 [H, W], 0 for the rest, and its segments."""

    ids: I64
    segments: tuple[PredictedSegment, ...]

    @property
    def coverage(self) -> float:
        """Share 0..1 of the pixels that belong to a segment."""
        known = [one.number for one in self.segments]
        return float(np.isin(self.ids, known).mean())


@dataclass(frozen=True, slots=True)
class SegmentPair:
    """A true and a predicted segment that share pixels, and their IoU."""

    true: TrueSegment
    predicted: PredictedSegment
    iou: float


@dataclass(frozen=True, slots=True)
class PictureMatches:
    """One picture: `pairs` above IoU .5, what was `missed` and `invented`, and `overlaps`, all
    pairs that share a pixel. `crowds` counts segments that are none.
    """

    pairs: tuple[SegmentPair, ...]
    missed: tuple[TrueSegment, ...]
    invented: tuple[PredictedSegment, ...]
    overlaps: tuple[SegmentPair, ...]
    crowds: int = 0


Agrees = Callable[[TrueSegment, PredictedSegment], bool]


def always(_true: TrueSegment, _predicted: PredictedSegment) -> bool:
    """Classes do not count."""
    return True


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """Pixels of every pair of true and predicted ids, of the true ids, and of the predicted ones;
    0 is the void, and the rest.
    """

    shared: Mapping[tuple[int, int], int]
    true_areas: Mapping[int, int]
    areas: Mapping[int, int]

    def __add__(self, other: PixelCounts) -> PixelCounts:
        """The pixels of both maps, in which an id means the same."""
        return PixelCounts(
            Counter(self.shared) + Counter(other.shared),
            Counter(self.true_areas) + Counter(other.true_areas),
            Counter(self.areas) + Counter(other.areas),
        )


def match_segments(
    case: PanopticCase, found: Prediction, *, agrees: Agrees = always
) -> PictureMatches:
    """The pairs of one picture. `agrees` says whether two segments may be a pair at all."""
    counts = count_pixels(case.ids, found.ids)
    return match_counts(case.segments, found.segments, counts, agrees=agrees)


def match_counts(
    true_segments: Iterable[TrueSegment],
    segments: Iterable[PredictedSegment],
    counts: PixelCounts,
    *,
    agrees: Agrees = always,
) -> PictureMatches:
    """The pairs of one picture, or of several as one, from their pixels."""
    shared, true_areas, areas = counts.shared, counts.true_areas, counts.areas
    true_segments = tuple(true_segments)
    ignored = [_VOID, *(one.number for one in true_segments if one.crowd)]
    true = {one.number: one for one in true_segments if not one.crowd}
    predicted = {one.number: one for one in segments if areas.get(one.number)}
    void = {n: sum(shared.get((i, n), 0) for i in ignored) for n in predicted}
    overlaps = []
    for (t, p), both in shared.items():
        if t in true and p in predicted and agrees(true[t], predicted[p]):
            union = areas[p] - void[p] + true_areas[t] - both
            overlaps.append(SegmentPair(true[t], predicted[p], both / union))
    pairs = tuple(pair for pair in overlaps if pair.iou > LEAST_IOU)
    found_true = {pair.true.number for pair in pairs}
    used = {pair.predicted.number for pair in pairs}
    return PictureMatches(
        pairs=pairs,
        missed=tuple(one for n, one in true.items() if n not in found_true),
        invented=tuple(
            one for n, one in predicted.items() if n not in used and void[n] * 2 <= areas[n]
        ),
        overlaps=tuple(overlaps),
        crowds=len(ignored) - 1,
    )


def count_pixels(true: I64, predicted: I64) -> PixelCounts:
    """Count the pixels of two maps of one size."""
    names_t, t = np.unique(true, return_inverse=True)
    names_p, p = np.unique(predicted, return_inverse=True)
    table = np.zeros((len(names_t), len(names_p)), np.int64)
    np.add.at(table, (t.ravel(), p.ravel()), 1)
    shared = {
        (int(names_t[i]), int(names_p[j])): int(table[i, j]) for i, j in np.argwhere(table).tolist()
    }
    rows = zip(names_t.tolist(), table.sum(1).tolist(), strict=True)
    columns = zip(names_p.tolist(), table.sum(0).tolist(), strict=True)
    return PixelCounts(shared, dict(rows), dict(columns))
