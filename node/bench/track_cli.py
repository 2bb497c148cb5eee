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
from ureca.models.runtime.segmentation.sam2 import Sam2
from ureca.node.bench import track
from ureca.node.bench.track import MODES, StoredSam2, TrackRow, measured
from ureca.node.bench.track_report import table
from ureca.weights import cached

_EPILOG = """examples:
  ureca bench track clips                      # flow alone: needs no weights
  ureca bench track clips --modes flow,segment,both,late --store /tmp/embeddings
  ureca bench track clips --modes both --out both.json
  ureca bench track --load flow.json both.json # one table of earlier runs

The last line is JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _parser().parse_args(argv)
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


def _measure(options: argparse.Namespace) -> list[TrackRow]:
    clips = sorted(options.clips.glob("*.tar"))
    modes = options.modes.split(",")
    if not clips or not set(modes) <= set(MODES):
        raise ConfigError(f"no *.tar in {options.clips}, or a mode of {modes} is not of {MODES}")
    segmenter = None
    if modes != ["flow"]:
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
    parser.add_argument("--every", type=int, default=5, help="frames between keyframes [5]")
    parser.add_argument(
        "--weights", type=Path, help="folder of the segmenter's weights [~/.cache/ureca]"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the segmenter [1]")
    parser.add_argument("--store", type=Path, help="store the segmenter's encodings in this folder")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--load", type=Path, nargs="+", default=[], help="earlier results to show")
    return parser
