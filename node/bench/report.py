"""Formats the report for people: a table, and the distributions as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ureca.extras import require
from ureca.node.bench.aggregate import BenchRow, series
from ureca.node.bench.intervals import Summary
from ureca.node.bench.resource_usage import EXTRA

_HEAD = (
    f"{'regions':>7}{'texts':>6}{'fps':>5}  {'capture to caption ms':^31}  {'to first text':^15}  "
    f"{'age ms':^15}{'no':>7}{'frames':>8}{'drop':>6}{'capt':>7}{'CPU':>6}{'RSS':>6}{'J/':>6}\n"
    f"{'':>18}  {'p50':>7}{'p95':>8}{'p99':>8}{'max':>8}  {'p50':>7}{'p95':>8}  "
    f"{'p50':>7}{'p95':>8}{'capt':>7}{'/s':>8}{'%':>6}{'/s':>7}{'cores':>6}{'MB':>6}{'capt':>6}"
)


def table(rows: Sequence[BenchRow]) -> str:
    """One line a row, then triggers, stages, drops and costs of each."""
    lines = [_HEAD, *map(_line, rows)]
    for row in rows:
        lines += ["", *_details(row)]
    return "\n".join(lines)


def chart(rows: Sequence[BenchRow], path: Path) -> None:
    """The distributions of capture-to-caption and the mean stages beside them, as PNG.

    Raises `MissingExtraError` without matplotlib.
    """
    figure = require("matplotlib.figure", extra=EXTRA).Figure(figsize=(11, 4.5), dpi=120)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for row in rows:
        ms = sorted(series(row.raw)["c2c_ms"][:, 1])
        left.step(ms, [(n + 1) / len(ms) for n in range(len(ms))], where="post", label=_name(row))
    left.set(xscale="log", xlabel="capture to caption, ms", ylabel="share of captions", ylim=(0, 1))
    plain = require("matplotlib.ticker", extra=EXTRA).LogFormatter  # 40, not 4 x 10^1
    left.xaxis.set_major_formatter(plain())
    left.xaxis.set_minor_formatter(plain(minor_thresholds=(1.5, 0.5)))
    left.grid(alpha=0.3, which="both")
    left.legend(fontsize="small")
    _bars(right, rows)
    figure.tight_layout()
    figure.savefig(path, format="png")


def _bars(axes: object, rows: Sequence[BenchRow]) -> None:
    """Stacked means of the stages; they add up to the mean of capture-to-caption."""
    names = list(dict.fromkeys(name for row in rows for name in row.stages_ms))
    begin = [0.0] * len(rows)
    for name in names:
        means = [row.stages_ms[name].mean or 0.0 if name in row.stages_ms else 0.0 for row in rows]
        axes.barh([_name(row) for row in rows], means, left=begin, label=name)  # type: ignore[attr-defined]
        begin = [start + mean for start, mean in zip(begin, means, strict=True)]
    axes.set(xlabel="mean ms by stage")  # type: ignore[attr-defined]
    axes.invert_yaxis()  # type: ignore[attr-defined]
    axes.legend(fontsize="x-small", ncols=3, loc="upper center", bbox_to_anchor=(0.4, -0.15))  # type: ignore[attr-defined]


def _name(row: BenchRow) -> str:
    count = row.plan["regions"]
    texts = row.plan["texts"]
    asked = f", {texts} standing text{'s' * (texts != 1)}" if texts else ""
    found = ", found by the node" if row.plan.get("auto") else ""
    found += ", whole frames" if row.plan.get("panoptic") else ""
    return f"{count} region{'s' * (count != 1)}, {row.plan['fps']:g} fps{found}{asked}"


def _line(row: BenchRow) -> str:
    c2c, first, age = row.c2c_ms["all"], row.ttfd_ms["all"], row.age_ms
    came = max(1, row.frames["measured_in"])
    dropped = 100 * sum(row.frames["measured_dropped"].values()) / came
    joule = row.joule_per_caption
    return (
        f"{row.plan['regions']:>7}{row.plan['texts']:>6}{row.plan['fps']:>5g}  "
        f"{_ms(c2c.p50):>7}{_ms(c2c.p95):>8}{_ms(c2c.p99):>8}{_ms(c2c.max):>8}  "
        f"{_ms(first.p50):>7}{_ms(first.p95):>8}  {_ms(age.p50):>7}{_ms(age.p95):>8}"
        f"{100 * row.without_caption:>6.1f}%{row.frames['processed_per_s']:>8.1f}{dropped:>6.1f}"
        f"{row.captions['per_s']:>7.1f}{row.node.get('cpu_cores', 0.0):>6.2f}"
        f"{row.node.get('rss_mb', 0.0):>6.0f}{joule if isinstance(joule, float) else '-':>6}"
    )


def _details(row: BenchRow) -> list[str]:
    return [
        f"{_name(row)}, {row.plan['duration_s']:g} s after {row.plan['warm_up_s']:g} s of warm-up",
        *(f"  {name:<10}{_long(row.c2c_ms[name])}" for name in row.c2c_ms if name != "all"),
        f"  {'warm-up':<10}{_long(row.warm_up_c2c_ms)}",
        f"  {'first':<10}{_long(row.first_caption_ms)} from first sight, warm-up included",
        "  stages    " + ", ".join(_stage(name, s) for name, s in row.stages_ms.items()),
        "  frames    " + _frames(row),
        *([_texts(row)] if row.plan["texts"] else []),
        *([_maps(row)] if row.plan.get("panoptic") else []),
        f"  batches   {row.captions['per_batch']:g} captions in one, on average",
        "  node      " + _node(row),
        "  load      " + _load(row),
    ]


def _texts(row: BenchRow) -> str:
    return (
        f"  texts     {row.texts['per_s']:g} answers a second ({row.texts['found']:g} found, "
        f"{row.texts['absent']:g} absent, {row.texts['error']:g} failed)"
    )


def _maps(row: BenchRow) -> str:
    maps = row.panoptic
    stages = ", ".join(_stage(name, s) for name, s in maps["stages_ms"].items())
    return (
        f"  segments  {maps['per_s']:g} passes a second ({maps['passes']}), "
        f"{_ms(maps['segments'].mean)} segments in one; stages ms: {stages}; "
        f"age when received p50 {_ms(maps['age_ms'].p50)}  p95 {_ms(maps['age_ms'].p95)} ms"
    )


def _frames(row: BenchRow) -> str:
    frames = row.frames
    dropped = ", ".join(f"{n} {why}" for why, n in frames["measured_dropped"].items()) or "none"
    counters = "add up" if row.books_balance else "DO NOT ADD UP"
    return (
        f"{frames['sent']} sent = {frames['in']} counted + {frames['never_seen']} before the "
        f"node had joined; dropped while measured: {dropped}; counters {counters}"
    )


def _node(row: BenchRow) -> str:
    node, joule = row.node, row.joule_per_caption
    energy = f"{joule} J a caption" if isinstance(joule, float) else f"energy {joule}"
    return (
        f"RSS slope {node.get('rss_slope_mb_per_min')} ± {node.get('rss_slope_ci95')} MB/min, "
        f"threads {node.get('threads')}, {energy}, ready after {row.start_ms['ready']} ms"
    )


def _load(row: BenchRow) -> str:
    average = ", ".join(f"{load:.1f}" for load in row.load_average)
    return (
        f"sender late p99 {_ms(row.sender_late_ms.p99)} ms; missed events "
        f"{[s['missed'] for s in row.subscribers]}; load average of the host {average}"
    )


def _long(s: Summary) -> str:
    return (
        f"p50 {_ms(s.p50)}  p95 {_ms(s.p95)}  p99 {_ms(s.p99)}  max {_ms(s.max)} ms"
        f"  ({s.n} captions)"
    )


def _stage(name: str, s: Summary) -> str:
    return f"{name} {_ms(s.mean)} (p95 {_ms(s.p95)})"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
