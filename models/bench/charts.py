"""Draws the measurements of the bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ureca.extras import require
from ureca.models.bench.stock import EXTRA
from ureca.models.bench.timing import TimingRow


def draw_chart(rows: Sequence[TimingRow], path: Path) -> None:
    """Draw milliseconds per frame over regions: one line per method, both axes logarithmic.

    Raises `MissingExtraError` without matplotlib.
    """
    figures = require("matplotlib.figure", extra=EXTRA)
    figure = figures.Figure(figsize=(7, 4.5), dpi=120)
    axes = figure.add_subplot()
    for name in dict.fromkeys(map(_format_label, rows)):
        line = [row for row in rows if _format_label(row) == name]
        axes.plot([r.regions for r in line], [r.ms_median for r in line], marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="regions in the frame", ylabel="ms per frame")
    counts = sorted({row.regions for row in rows})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def _format_label(row: TimingRow) -> str:
    return f"{row.arm} ({row.precision}, {row.runtime})"
