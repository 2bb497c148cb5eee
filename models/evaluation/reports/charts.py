"""Draws charts as SVG in the page's own text colour, for light and dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ureca.extras import require
from ureca.models.evaluation.text.ngrams import EXTRA

_INK = "#010203"  # replaced by the page's colour
_BARS = ("#4c78a8", "#f58518", "#54a24b")
_ROW_INCH, _WIDTH_INCH = 0.27, 6.4


def draw_bars(
    title: str,
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    limit: float | None = 1.0,
) -> str:
    """Draw horizontal bars, one group of bars per name; None leaves a gap. Returns an <svg>
    element.

    Raises `MissingExtraError` without matplotlib.
    """
    figure_class = require("matplotlib.figure", extra=EXTRA).Figure
    height = 0.9 + _ROW_INCH * len(names) * max(1, len(series) * 0.7)
    figure = figure_class(figsize=(_WIDTH_INCH, height), layout="constrained")
    axes = figure.add_subplot()
    thick = 0.8 / max(1, len(series))
    for number, (label, values) in enumerate(series.items()):
        places = [row + (number - (len(series) - 1) / 2) * thick for row in range(len(names))]
        lengths = [value or 0.0 for value in values]
        axes.barh(places, lengths, height=thick * 0.92, label=label, color=_BARS[number % 3])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, limit)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8)
    _set_colours(axes)
    return _render_svg(figure)


def _set_colours(axes: Any) -> None:  # matplotlib's axes; the package is optional
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(axis="x", color=_INK, alpha=0.15)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(_INK)


def _render_svg(figure: Any) -> str:  # matplotlib's figure
    matplotlib = require("matplotlib", extra=EXTRA)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ureca"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
