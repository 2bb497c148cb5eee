"""Compares a shared prefix with other methods: the same frames, one process, methods in turn.

Other load on the machine slows all methods alike: trust ratios more than milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
from tqdm import tqdm

from ureca.bundle import BundleManifest, bundle_sha, load_manifest
from ureca.models.bench.arms import AGAINST, open_arms
from ureca.models.bench.charts import draw_chart
from ureca.models.bench.files import write_document
from ureca.models.bench.machine import describe_machine
from ureca.models.bench.roofline import Peaks, count_work, measure_peaks
from ureca.models.bench.scenes import make_scenes
from ureca.models.bench.timing import TimingRow, add_roofline, measure_arms
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.compatibility import TRANSFORMERS
from ureca.models.runtime.load import read_captioner_config
from ureca.models.runtime.ort import count_default_threads

_EPILOG = """examples:
  ureca bench engine --bundle BUNDLE --regions 1,4,8 --frames 20
  ureca bench engine --bundle BUNDLE --frames 100 --out engine.json   # for `ureca bench report`
  ureca bench engine --bundle int8 --bundle fp32 --regions 8,32 --chart speed.png \\
      --against naive,eager,transformers,transformers-cached

The last line is JSON: {"rows": [{"arm": "shared", "regions": 8, "ms_median": ...}, ...], ...}."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _build_parser().parse_args(argv)
    arms = open_arms(
        options.bundle,
        against=options.against,
        checkpoint=options.checkpoint,
        threads=options.threads,
    )
    config = _read_counted_config(load_manifest(options.bundle[0]))
    peaks, threads = measure_peaks(), options.threads or count_default_threads()
    rows: list[TimingRow] = []
    for count in tqdm(options.regions, desc="regions", disable=None, leave=False):
        frames = make_scenes(frames=options.frames, regions=count, tokens=options.tokens)
        rows += [_add_roofline(row, config, peaks, threads) for row in measure_arms(arms, frames)]
    sys.stdout.write(format_table(rows) + "\n")
    report = _build_report(rows, options.bundle, peaks, threads)
    if options.chart is not None:
        draw_chart(rows, options.chart)
    if options.out is not None:
        write_document(options.out, json.dumps(report) + "\n")
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def format_table(rows: Sequence[TimingRow]) -> str:
    """Format the rows for a terminal, with speed and agreement in each row."""
    head = (
        f"{'regions':>7} {'arm':<20}{'precision':<11}{'ms p50':>9}{'p95':>9}{'x shared':>9}"
        f"{'capt/s':>8}{'tokens':>7}{'same':>7}  stages ms (share of the float32 roofline)"
    )
    return "\n".join([head, *map(_format_row, rows)])


def _format_row(row: TimingRow) -> str:
    stages = ", ".join(
        f"{name} {ms:.1f}" + (f" ({row.roofline[name]:.2f})" if name in row.roofline else "")
        for name, ms in row.stages_ms.items()
    )
    return (
        f"{row.regions:>7} {row.arm:<20}{row.precision:<11}{row.ms_median:>9.1f}{row.ms_p95:>9.1f}"
        f"{row.times_shared:>9.2f}{row.captions_per_s:>8.1f}{row.tokens_per_caption:>7.1f}"
        f"{row.same_captions:>7.3f}  {stages}"
    )


def _read_counted_config(manifest: BundleManifest) -> CaptionerConfig | None:
    """Return the configuration for the roofline. Only the work of the nano can be counted."""
    full_size = manifest.runtime == TRANSFORMERS or bool(manifest.language)
    return None if full_size else read_captioner_config(manifest)


def _add_roofline(
    row: TimingRow, config: CaptionerConfig | None, peaks: Peaks, threads: int
) -> TimingRow:
    if config is None:
        return row
    works = count_work(config, regions=row.regions, tokens=row.tokens_per_caption)
    return add_roofline(row, works, peaks, threads)


def _build_report(
    rows: Sequence[TimingRow], bundles: Sequence[Path], peaks: Peaks, threads: int
) -> dict[str, object]:
    return {
        "bench": "engine",
        "machine": {
            **msgspec.to_builtins(describe_machine()),
            "threads": threads,
            **asdict(peaks),
        },
        "bundles": {str(folder): _read_quality(folder) for folder in bundles},
        "load_average": os.getloadavg(),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rows": [asdict(row) for row in rows],
    }


def _read_quality(bundle: Path) -> dict[str, object]:
    """Read the bundle's parity figures, so that each speed is shown with its quality."""
    found: dict[str, object] = {"sha256": bundle_sha(load_manifest(bundle))}
    proof = bundle / "parity.json"
    if proof.is_file():
        found["agreement"] = json.loads(proof.read_text(encoding="utf8"))["bundle"]
    return found


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca bench engine",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--bundle",
        type=Path,
        action="append",
        required=True,
        help="repeatable; the first is the reference",
    )
    add(
        "--checkpoint",
        type=Path,
        help="checkpoint for the torch methods (default: BUNDLE/checkpoint)",
    )
    add("--against", type=_parse_names, default=["naive"], help=f"of {','.join(AGAINST)} (naive)")
    add("--regions", type=_parse_numbers, default=[1, 4, 8], help="regions per frame (1,4,8)")
    add("--frames", type=_parse_number, default=20, help="frames per row (%(default)s)")
    add("--tokens", type=_parse_number, default=8, help="longest caption, in tokens (%(default)s)")
    add("--threads", type=_parse_number, help="threads of every graph, and of torch")
    add("--chart", type=Path, metavar="PNG", help="also draw the medians")
    add("--out", type=Path, metavar="JSON", help="also write the last line to a file")
    return parser


def _parse_names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _parse_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def _parse_numbers(text: str) -> list[int]:
    return [_parse_number(part) for part in text.split(",")]
