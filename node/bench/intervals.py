"""Computes percentiles and slopes with confidence intervals, by resampling blocks of time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ureca.extras import require

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
    olds, news = _by_second(old), _by_second(new)

    def ratio(old_picks: F64, new_picks: F64) -> float:
        before, after = _quantile_of(olds, old_picks, share), _quantile_of(news, new_picks, share)
        return after / max(before, 1e-9)

    found = require("scipy.stats", extra="bench").bootstrap(
        (_numbers(olds), _numbers(news)),
        ratio,
        vectorized=False,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = map(float, found.confidence_interval)
    return point, low, high


def _by_second(data: F64) -> list[F64]:
    """The values of each second."""
    seconds = np.floor(data[:, 0])
    return [data[seconds == second, 1] for second in np.unique(seconds)]


def _numbers(blocks: Sequence[F64]) -> F64:
    """What is resampled in place of the blocks: their numbers; one alone twice, as scipy refuses
    a sample of one.
    """
    return np.arange(max(2, len(blocks)), dtype=np.float64) % len(blocks)


def _quantile_of(blocks: Sequence[F64], picks: F64, share: float) -> float:
    return _quantile(np.concatenate([blocks[int(number)] for number in picks]), share)


def _quantile(values: F64, share: float) -> float:
    return float(np.percentile(values, 100 * share))
