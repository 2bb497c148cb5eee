"""Tests whether a report is worse than an older one by more than the difference between two
runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ureca.errors import ConfigError
from ureca.extras import require
from ureca.node.bench.aggregate import series
from ureca.node.bench.intervals import ratio_interval
from ureca.node.bench.run_config import RunPlan

_MAX_BYTES = 1 << 30
_QUANTILES = (0.5, 0.95)


class Verdict(msgspec.Struct, frozen=True):
    """One figure of one row, old and new: how many times as large, with its 95 % interval."""

    what: str
    ratio: float
    low: float
    high: float
    is_worse: bool

    def text(self) -> str:
        """One line."""
        mark = "WORSE " if self.is_worse else "      "
        return f"{mark}{self.what:<44}x {self.ratio:.3f}  [{self.low:.3f}, {self.high:.3f}]"


def load_report(path: Path) -> dict[str, Any]:
    """A report of `--out`. Raises `ConfigError` when it is not one, and `MissingExtraError` when
    a comparison lacks its library: before the run, not behind it.
    """
    require("scipy.stats", extra="bench")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"--compare {path}: larger than {_MAX_BYTES} bytes")
        report = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--compare {path}: cannot be read: {error}") from error
    if not isinstance(report, dict) or report.get("bench") != "node" or "rows" not in report:
        raise ConfigError(f"--compare {path}: expected what `ureca bench node --out` wrote")
    return report


def compare(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], *, margin: float
) -> list[Verdict]:
    """Verdicts of all rows whose load is the same in both.

    Worse means: the whole 95 % interval of new / old lies above 1 + `margin`; for frames per
    second, below 1 - `margin`. Raises `ConfigError` when no row can be compared.
    """
    known = {_key(row): row for row in old}
    pairs = [(known[_key(row)], row) for row in new if _key(row) in known]
    if not pairs:
        raise ConfigError(
            "--compare: no row of the older report has the same source, regions, rate, masks, "
            "life, encoding, size, texts, --auto and --panoptic; run the older load again with "
            "these options"
        )
    return [verdict for pair in pairs for verdict in _verdicts(*pair, margin=margin)]


def _verdicts(old: Mapping[str, Any], new: Mapping[str, Any], *, margin: float) -> list[Verdict]:
    found = []
    name = f"{new['plan']['regions']} regions, {new['plan']['fps']:g} fps: "
    before, after = series(old["raw"]), series(new["raw"])
    for key, share in ((key, share) for key in before for share in _QUANTILES):
        interval = ratio_interval(before[key], after[key], share)
        if interval is not None:
            what = f"{name}{key} p{round(100 * share)}"
            found.append(Verdict(what, *interval, interval[1] > 1 + margin))
    return [*found, _rate(old, new, name, margin)]


def _rate(old: Mapping[str, Any], new: Mapping[str, Any], name: str, margin: float) -> Verdict:
    """Processed frames; the noise of a count is about its square root."""
    before, after = (max(1, row["frames"]["measured_processed"]) for row in (old, new))
    seconds = [row["plan"]["duration_s"] for row in (old, new)]
    ratio = (after / seconds[1]) / (before / seconds[0])
    noise = 1.96 * (1 / before + 1 / after) ** 0.5
    low, high = ratio * (1 - noise), ratio * (1 + noise)
    return Verdict(f"{name}frames/s", ratio, low, high, high < 1 - margin)


def _key(row: Mapping[str, Any]) -> tuple[object, ...]:
    try:
        return msgspec.convert({**row["plan"], "frames": ""}, RunPlan).key
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise ConfigError(f"--compare: a row without a readable plan: {error}") from error
