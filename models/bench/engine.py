"""Shared prefix against what everybody else does: the same frames, one process, arms in turns.

A machine that is shared with others slows all arms alike: trust ratios before milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from ureca.bundle import BundleManifest, bundle_sha, load_manifest
from ureca.models.bench.arms import AGAINST, open_arms
from ureca.models.bench.charts import chart
from ureca.models.bench.roofline import Peaks, measure_peaks, work
from ureca.models.bench.scenes import scenes
from ureca.models.bench.timing import TimingRow, measure, with_roofline
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.compatibility import TRANSFORMERS
from ureca.models.runtime.load import captioner_config
from ureca.models.runtime.ort import default_threads

_EPILOG = """examples:
  ureca bench engine --bundle BUNDLE --regions 1,4,8 --frames 20
  ureca bench engine --bundle int8 --bundle fp32 --regions 8,32 --chart speed.png \\
      --against naive,eager,transformers,transformers-cached

The last line is JSON: {"rows": [{"arm": "shared", "regions": 8, "ms_median": ...}, ...], ...}."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _parser().parse_args(argv)
    arms = open_arms(
        options.bundle,
        against=options.against,
        checkpoint=options.checkpoint,
        threads=options.threads,
    )
    config = _counted(load_manifest(options.bundle[0]))
    peaks, threads = measure_peaks(), options.threads or default_threads()
    rows: list[TimingRow] = []
    for count in tqdm(options.regions, desc="regions", disable=None, leave=False):
        frames = scenes(frames=options.frames, regions=count, tokens=options.tokens)
        rows += [_judged(row, config, peaks, threads) for row in measure(arms, frames)]
    sys.stdout.write(table(rows) + "\n")
    report = _report(rows, options.bundle, peaks, threads)
    if options.chart is not None:
        chart(rows, options.chart)
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def table(rows: Sequence[TimingRow]) -> str:
    """The rows for a terminal, each speed beside what it says."""
    head = (
        f"{'regions':>7} {'arm':<20}{'precision':<11}{'ms p50':>9}{'p95':>9}{'x shared':>9}"
        f"{'capt/s':>8}{'tokens':>7}{'same':>7}  stages ms (share of the float32 roofline)"
    )
    return "\n".join([head, *map(_line, rows)])


def _line(row: TimingRow) -> str:
    stages = ", ".join(
        f"{name} {ms:.1f}" + (f" ({row.roofline[name]:.2f})" if name in row.roofline else "")
        for name, ms in row.stages_ms.items()
    )
    return (
        f"{row.regions:>7} {row.arm:<20}{row.precision:<11}{row.ms_median:>9.1f}{row.ms_p95:>9.1f}"
        f"{row.times_shared:>9.2f}{row.captions_per_s:>8.1f}{row.tokens_per_caption:>7.1f}"
        f"{row.same_captions:>7.3f}  {stages}"
    )


def _counted(manifest: BundleManifest) -> CaptionerConfig | None:
    """What the roofline is counted from; only the nano's work is known."""
    return None if manifest.runtime == TRANSFORMERS else captioner_config(manifest)


def _judged(
    row: TimingRow, config: CaptionerConfig | None, peaks: Peaks, threads: int
) -> TimingRow:
    if config is None:
        return row
    works = work(config, regions=row.regions, tokens=row.tokens_per_caption)
    return with_roofline(row, works, peaks, threads)


def _report(
    rows: Sequence[TimingRow], bundles: Sequence[Path], peaks: Peaks, threads: int
) -> dict[str, object]:
    return {
        "bench": "engine",
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "python": platform.python_version(),
            "threads": threads,
            **asdict(peaks),
        },
        "bundles": {str(folder): _quality(folder) for folder in bundles},
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rows": [asdict(row) for row in rows],
    }


def _quality(bundle: Path) -> dict[str, object]:
    """What the bundle's own proof says, so that no speed stands alone."""
    found: dict[str, object] = {"sha256": bundle_sha(load_manifest(bundle))}
    proof = bundle / "parity.json"
    if proof.is_file():
        found["agreement"] = json.loads(proof.read_text(encoding="utf8"))["bundle"]
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _parser() -> argparse.ArgumentParser:
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
    add("--against", type=_names, default=["naive"], help=f"of {','.join(AGAINST)} (naive)")
    add("--regions", type=_numbers, default=[1, 4, 8], help="regions per frame (1,4,8)")
    add("--frames", type=_number, default=20, help="frames per row (%(default)s)")
    add("--tokens", type=_number, default=8, help="longest caption, in tokens (%(default)s)")
    add("--threads", type=_number, help="threads of every graph, and of torch")
    add("--chart", type=Path, metavar="PNG", help="also draw the medians")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def _numbers(text: str) -> list[int]:
    return [_number(part) for part in text.split(",")]
