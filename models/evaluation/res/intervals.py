"""95 % intervals by bootstrap over pictures: texts of one picture stand or fall together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

ROUNDS: Final = 1000
_EDGES = (2.5, 97.5)
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Interval = tuple[float, float]


def mean_interval(
    pictures: Sequence[str], values: Sequence[float], *, seed: int
) -> Interval | None:
    """Of the mean of `values`, each of the picture beside it; None for fewer than two pictures."""
    place, count = _places(pictures)
    if count < 2:
        return None
    sums = np.bincount(place, weights=np.asarray(values, np.float64), minlength=count)
    sizes = np.bincount(place, minlength=count).astype(np.float64)
    drawn = np.random.default_rng(seed).integers(0, count, (ROUNDS, count))
    return _edges(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))


def auc_interval(
    pictures: Sequence[str], values: Sequence[float], positive: Sequence[bool], *, seed: int
) -> Interval | None:
    """Of `area_under_curve`; None for fewer than two pictures or one kind of value alone."""
    place, count = _places(pictures)
    if count < 2 or all(positive) or not any(positive):
        return None
    rng = np.random.default_rng(seed)
    scores, kinds = np.asarray(values, np.float64), np.asarray(positive, np.bool_)
    drawn = (np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(ROUNDS))
    found = [area_under_curve(scores, kinds, times[place].astype(np.float64)) for times in drawn]
    return _edges(np.array([value for value in found if value is not None]))


def area_under_curve(
    values: Sequence[float] | F64,
    positive: Sequence[bool] | npt.NDArray[np.bool_],
    weights: F64 | None = None,
) -> float | None:
    """The share of pairs, one positive and one not, in which the positive value is larger; ties
    count half, a pair counts as often as the weights say. None without one of the two.
    """
    scores, kinds = np.asarray(values, np.float64), np.asarray(positive, np.bool_)
    weight = np.ones_like(scores) if weights is None else weights
    _, level = np.unique(scores, return_inverse=True)
    high = np.bincount(level[kinds], weights=weight[kinds], minlength=level.max(initial=0) + 1)
    low = np.bincount(level[~kinds], weights=weight[~kinds], minlength=len(high))
    pairs = high.sum() * low.sum()
    below = np.cumsum(low) - low
    return float((high * (below + low / 2)).sum() / pairs) if pairs else None


def _places(pictures: Sequence[str]) -> tuple[I64, int]:
    names, place = np.unique(np.asarray(pictures, object).astype(str), return_inverse=True)
    return np.asarray(place, np.int64), len(names)


def _edges(values: F64) -> Interval | None:
    if not values.size:
        return None
    low, high = np.percentile(values, _EDGES)
    return float(low), float(high)
