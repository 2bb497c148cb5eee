"""`ureca bench node`: measures a node from capture to caption, as a subscriber receives it."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from ureca.errors import ConfigError
from ureca.models.bench.machine import describe_machine
from ureca.node.bench.aggregate import BenchRow, row
from ureca.node.bench.compare import compare, load_report
from ureca.node.bench.report import chart, table
from ureca.node.bench.run import Setup, run
from ureca.node.bench.run_config import SYNTHETIC, RunPlan

_EPILOG = """examples:
  ureca bench node --regions 8 --fps 30 --duration 20
  ureca bench node --regions 1,4,8,16,32 --fps 10,30 --chart node.png --out node.json
  ureca bench node --source clip.mp4 --regions 4 --fps 15 --subscribers 3 -- --style long
  ureca bench node --regions 8 --fps 30 --texts 0,1,4           # what standing texts cost
  ureca bench node --regions 8 --fps 30 --auto                  # the node finds the things itself
  ureca bench node --regions 24 --fps 10 --panoptic --size 640x480   # whole frames in segments
  ureca bench node --regions 8 --fps 30 --compare node.json     # exit 1 when it became worse

Options after `--` are options of `ureca run`. A sender process sends every frame on time, whether
or not the node keeps up. A latency is the time from then to the decoded event in a subscriber
process. The last line is JSON without the raw samples; --out writes them."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`. Returns 1 when `--compare` finds a regression."""
    options = _parser().parse_args(argv)
    old = load_report(options.compare) if options.compare else None
    plans, setup = _plans(options), _setup(options)
    total = sum(plan.warm_up_s + plan.duration_s for plan in plans)
    tqdm.monitor_interval = 0  # no thread of its own: the bar is told twice a second
    with tqdm(total=round(total, 1), unit="s", disable=None, leave=False) as bar:
        rows = [_measured(plan, setup, bar) for plan in plans]
    print(table(rows))
    report = {"bench": "node", "machine": _machine(), "rows": msgspec.to_builtins(rows)}
    if options.chart is not None:
        chart(rows, options.chart)
    if options.out is not None:
        _write(options.out, report)
    worse = _judged(old, report, options.margin) if old is not None else []
    print(json.dumps(_short(report, worse)))
    return 1 if worse else 0


def _measured(
    plan: RunPlan, setup: Setup, bar: Any
) -> BenchRow:  # a tqdm, which is generic in its stubs
    bar.set_description(f"{plan.regions} regions, {plan.fps:g} fps, {plan.texts} texts")
    return row(run(plan, setup, bar.update))


def _plans(options: argparse.Namespace) -> list[RunPlan]:
    return [
        RunPlan(
            frames="",
            source=options.source,
            regions=regions,
            fps=fps,
            warm_up_s=options.warm_up,
            duration_s=options.duration,
            masks=options.masks,
            life_s=options.life,
            enc=options.enc,
            size=options.size,
            texts=texts,
            auto=options.auto,
            panoptic=options.panoptic,
        )
        for fps in options.fps
        for regions in options.regions
        for texts in options.texts
    ]


def _setup(options: argparse.Namespace) -> Setup:
    given = list(options.run)
    if options.bundle:
        given = ["--bundle", options.bundle, *given]
    setup = Setup(options=tuple(given), subscribers=options.subscribers, startup_s=options.startup)
    if not options.node:
        return setup
    return msgspec.structs.replace(setup, command=tuple(shlex.split(options.node)))


def _judged(old: dict[str, Any], new: dict[str, Any], margin: float) -> list[str]:
    verdicts = compare(old["rows"], new["rows"], margin=margin)
    print("\nagainst the older report: new / old [95 % interval]")
    for verdict in verdicts:
        print(verdict.text())
    return [verdict.what for verdict in verdicts if verdict.is_worse]


def _short(report: dict[str, Any], worse: list[str]) -> dict[str, Any]:
    rows = [{key: row[key] for key in row if key != "raw"} for row in report["rows"]]
    return {**report, "rows": rows, "worse": worse}


def _write(path: Path, report: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report) + "\n", encoding="utf8")
    except OSError as error:
        raise ConfigError(f"--out {path}: {error.strerror}") from error


def _machine() -> dict[str, Any]:
    described: dict[str, Any] = msgspec.to_builtins(describe_machine())
    return described


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca bench node",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", default=SYNTHETIC, metavar="CLIP", help="video, folder or tar [drawn images]")
    add("--regions", type=_numbers, default=[8], metavar="N[,N]", help="regions in view [8]")
    add("--texts", type=_numbers, default=[0], metavar="N[,N]", help="standing texts [0]")
    add("--fps", type=_rates, default=[30.0], metavar="F[,F]", help="frames sent per second [30]")
    add("--duration", type=float, default=20.0, metavar="S", help="seconds measured per row [20]")
    add(
        "--warm-up", type=float, default=3.0, metavar="S", help="seconds before the measurement [3]"
    )
    add("--subscribers", type=_count, default=1, metavar="K", help="subscriber processes [1]")
    add(
        "--masks",
        choices=("every", "warm-up"),
        default="every",
        help="who makes the masks: every = the camera process, warm-up = the node [every]",
    )
    add(
        "--auto",
        action="store_true",
        help="nobody makes masks: the node follows at most N things that its segmenter finds",
    )
    add(
        "--panoptic",
        action="store_true",
        help="nobody makes masks: the node follows at most N segments of whole frames",
    )
    add("--life", type=float, default=5.0, metavar="S", help="a region is replaced after S s [5]")
    add(
        "--enc",
        choices=("jpeg", "png", "rgb8"),
        default="jpeg",
        help="encoding of the frames [jpeg]",
    )
    add("--size", default="640x360", metavar="WxH", help="size of drawn images [640x360]")
    add("--bundle", metavar="DIR", help="the captioner [the shipped one]")
    add("--node", metavar="COMMAND", help="command that starts the node [python -m ureca run]")
    add(
        "--startup",
        type=float,
        default=60.0,
        metavar="S",
        help="wait at most S seconds for the node [60]",
    )
    add("--chart", type=Path, metavar="PNG", help="draw the distributions")
    add("--out", type=Path, metavar="JSON", help="write everything, raw samples included")
    add(
        "--compare",
        type=Path,
        metavar="JSON",
        help="exit 1 if the result is worse than this report",
    )
    add("--margin", type=float, default=0.1, help="relative change that is not a regression [0.1]")
    add("run", nargs="*", metavar="-- OPTIONS", help="options of `ureca run`")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError(f"expected 1 to 64, got {number}")
    return number


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _rates(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
