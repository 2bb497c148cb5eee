"""Percentiles with their uncertainty, a slope with its interval, resampling by blocks of time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
_Z = 1.96
_RESAMPLES = 400
_LEAST_FOR_CI = 100


class Summary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A distribution in the unit of its name; `p99_ci` is the 95 % interval of `p99`."""

    n: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    mean: float | None = None
    p99_ci: tuple[float, float] | None = None


def summary(values: Sequence[float] | F64) -> Summary:
    """The percentiles of some values; only `n` when there are none."""
    data = np.sort(np.asarray(values, np.float64))
    if not len(data):
        return Summary(n=0)
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(data, (50, 95, 99)))
    return Summary(
        n=len(data),
        p50=p50,
        p95=p95,
        p99=p99,
        max=round(float(data[-1]), 3),
        mean=round(float(data.mean()), 3),
        p99_ci=_rank_interval(data, 0.99) if len(data) >= _LEAST_FOR_CI else None,
    )


def _rank_interval(data: F64, share: float) -> tuple[float, float]:
    """The order statistics between which the quantile lies with 95 % probability."""
    middle, spread = len(data) * share, _Z * np.sqrt(len(data) * share * (1 - share))
    low, high = max(0, int(middle - spread)), min(len(data) - 1, int(middle + spread) + 1)
    return round(float(data[low]), 3), round(float(data[high]), 3)


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float] | None:
    """Least-squares slope and the half width of its 95 % interval; None for under 3 points."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(xs) < 3 or not np.ptp(xs):
        return None
    design = np.stack([xs - xs.mean(), np.ones(len(xs))], axis=1)
    found = np.linalg.lstsq(design, ys, rcond=None)[0]
    left = ys - design @ found
    error = np.sqrt((left**2).sum() / (len(xs) - 2) / (design[:, 0] ** 2).sum())
    return float(found[0]), float(_Z * error)


def ratio_interval(
    old: F64, new: F64, share: float, *, seed: int = 0
) -> tuple[float, float, float] | None:
    """How many times as large the quantile is now, and the 95 % interval of that.

    `old` and `new` are [n, 2]: seconds and value. Whole seconds are resampled, because captions of
    one batch, and batches after each other, are late together. None when either is empty.
    """
    if not len(old) or not len(new):
        return None
    point = _quantile(new[:, 1], share) / max(_quantile(old[:, 1], share), 1e-9)
    draw = np.random.default_rng(seed)
    olds, news = _resampled(old, share, draw), _resampled(new, share, draw)
    low, high = np.percentile(news / np.maximum(olds, 1e-9), (2.5, 97.5))
    return point, float(low), float(high)


def _resampled(data: F64, share: float, draw: np.random.Generator) -> F64:
    seconds = np.floor(data[:, 0])
    blocks = [data[seconds == second, 1] for second in np.unique(seconds)]
    picks = draw.integers(0, len(blocks), (_RESAMPLES, len(blocks)))
    drawn = [np.concatenate([blocks[number] for number in row]) for row in picks]
    return np.array([_quantile(values, share) for values in drawn])


def _quantile(values: F64, share: float) -> float:
    return float(np.percentile(values, 100 * share))
