"""The command `ureca bench track`; `track` describes the measurement."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ureca.errors import ConfigError
from ureca.models.runtime.segmentation.bundled import open_mask_head
from ureca.models.runtime.segmentation.sam2 import Sam2
from ureca.node.bench import track
from ureca.node.bench.generated_bench import PresenceRow, measure_generated, presence_table
from ureca.node.bench.generated_scenes import KINDS
from ureca.node.bench.track import MODES, StoredSam2, Timed, TimedSegmenter, TrackRow, measured
from ureca.node.bench.track_report import table
from ureca.weights import cached

_EPILOG = """examples:
  ureca bench track clips                      # flow alone: needs no weights
  ureca bench track clips --modes flow,segment,both,late --store /tmp/embeddings
  ureca bench track clips --modes flow,both --bundle models/pretrained/ureca-nano
  ureca bench track clips --modes both --out both.json
  ureca bench track --load flow.json both.json # one table of earlier runs
  ureca bench track clips --generated --seeds 8 # things that leave, hide, stop, cross
  ureca bench track clips --generated leaves,twins --half second

The last line is JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _parser().parse_args(argv)
    if options.generated is not None:
        return _report_generated(options)
    rows = [TrackRow(**row) for path in options.load for row in _load(path)]
    rows += _measure(options) if options.clips is not None else []
    if not rows:
        raise ConfigError("no clips and no earlier results: see ureca bench track --help")
    print(table(rows))
    report = {"bench": "track", "machine": platform.platform(), "rows": [asdict(r) for r in rows]}
    if options.out is not None:
        options.out.write_text(json.dumps(report) + "\n", encoding="utf8")
    print(json.dumps(report))
    return 0


def _report_generated(options: argparse.Namespace) -> int:
    rows = _measure_generated(options)
    print(presence_table(rows))
    found = [row.to_json() for row in rows]
    report = {"bench": "track-generated", "machine": platform.platform(), "rows": found}
    if options.out is not None:
        options.out.write_text(json.dumps(report) + "\n", encoding="utf8")
    print(json.dumps(report))
    return 0


def _measure_generated(options: argparse.Namespace) -> list[PresenceRow]:
    clips = [] if options.clips is None else sorted(options.clips.glob("*.tar"))
    kinds = options.generated.split(",")
    parts = {"all": clips, "first": clips[::2], "second": clips[1::2]}
    if len(parts[options.half]) < 2 or not set(kinds) <= set(KINDS) or options.seeds < 1:
        raise ConfigError(
            f"expected two *.tar or more in {options.clips} (half: {options.half}), kinds of "
            f"{','.join(KINDS)}, and a seed or more; got {len(parts[options.half])} clips, "
            f"{kinds} and {options.seeds} seeds"
        )
    return measure_generated(parts[options.half], kinds, range(options.seeds))


def _measure(options: argparse.Namespace) -> list[TrackRow]:
    clips = sorted(options.clips.glob("*.tar"))
    modes = options.modes.split(",")
    if not clips or not set(modes) <= set(MODES):
        raise ConfigError(f"no *.tar in {options.clips}, or a mode of {modes} is not of {MODES}")
    segmenter: Timed | None = None
    if modes != ["flow"] and options.bundle is not None:
        segmenter = TimedSegmenter(open_mask_head(options.bundle, threads=options.threads))
    elif modes != ["flow"]:
        folder = options.weights or cached(Sam2.name)
        segmenter = StoredSam2(folder, options.store, threads=options.threads)
    if options.store is not None:
        options.store.mkdir(parents=True, exist_ok=True)
    rows = []
    tqdm.monitor_interval = 0  # no thread of its own
    with tqdm(unit=" frames", disable=None, leave=False) as bar:
        for path in clips:
            for mode in modes:
                bar.set_description(f"{path.stem} {mode}")
                row = measured(path, mode, segmenter, every=options.every, tell=bar.update)
                rows.append(row)
                bar.write(f"{row.clip} {row.mode} J {row.j:.3f} F {row.f:.3f}", file=sys.stderr)
    return rows


def _load(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text("utf8"))["rows"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} is no report of this bench: {error!r}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca bench track",
        description=track.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", type=Path, nargs="?", help="folder of *.tar")
    parser.add_argument(
        "--modes", default="flow", help=f"comma-separated: {','.join(MODES)} [flow]"
    )
    parser.add_argument(
        "--generated",
        nargs="?",
        const=",".join(KINDS),
        metavar="KINDS",
        help="follow things on clips generated from the clips, by flow alone: is a region alive "
        f"exactly while its thing can be seen? comma-separated [{','.join(KINDS)}]",
    )
    parser.add_argument("--seeds", type=int, default=8, help="generated clips of each kind [8]")
    parser.add_argument(
        "--half",
        choices=("all", "first", "second"),
        default="all",
        help="of the clips, use every second one for --generated: tune on one half, report the "
        "other [all]",
    )
    parser.add_argument("--every", type=int, default=5, help="frames between keyframes [5]")
    parser.add_argument(
        "--weights", type=Path, help="folder of the segmenter's weights [~/.cache/ureca]"
    )
    parser.add_argument(
        "--bundle", type=Path, help="segment with the mask head of this bundle, not with SAM 2"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the segmenter [1]")
    parser.add_argument("--store", type=Path, help="store the segmenter's encodings in this folder")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--load", type=Path, nargs="+", default=[], help="earlier results to show")
    return parser
