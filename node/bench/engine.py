"""Shared prefix against region by region: the same engine, the same frames, one process.

`shared` encodes a frame once and captions its N regions in one batch. `naive` encodes and captions
the frame N times with one region each, as models without a shared prefix must. Arms alternate frame
by frame, so that a busy machine slows both alike: trust the ratio before the milliseconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ureca.datatypes import Image, RegionInput, RowDone
from ureca.engine import Engine
from ureca.models.runtime.load import load_engine

_EPILOG = """example:
  ureca bench engine --bundle BUNDLE --regions 1,4,8 --frames 20

The last line is JSON: {"rows": [{"regions": 8, "shared_ms_p50": ..., "ratio": ...}, ...]}."""

_FRAME_PX = (360, 640)


@dataclass(frozen=True, slots=True)
class Row:
    """One number of regions: milliseconds per frame of both arms, and what they said."""

    regions: int
    frames: int
    shared_ms_p50: float
    shared_ms_p95: float
    naive_ms_p50: float
    naive_ms_p95: float
    ratio: float
    """Median over frames of naive / shared; each pair ran back to back."""
    shared_captions_per_s: float
    tokens_per_caption: float


@dataclass(frozen=True, slots=True)
class Scene:
    """One frame u8 [H, W, 3] and its regions."""

    image: Image
    regions: tuple[RegionInput, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _parser().parse_args(argv)
    engine = load_engine(options.bundle, threads=options.threads)
    rows = [
        measure(engine, scenes(frames=options.frames, regions=count, tokens=options.tokens))
        for count in options.regions
    ]
    sys.stdout.write(table(rows) + "\n")
    report = {"bench": "engine", **asdict(engine.info), "rows": [asdict(row) for row in rows]}
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def measure(engine: Engine, frames: Sequence[Scene]) -> Row:
    """Run both arms on every frame, alternating which goes first."""
    shared(engine, frames[0])
    shared_ms: list[float] = []
    naive_ms: list[float] = []
    tokens = 0
    for index, scene in enumerate(frames):
        arms = [(shared, shared_ms), (naive, naive_ms)]
        for arm, times in arms if index % 2 == 0 else arms[::-1]:
            elapsed_ms, said = _timed(arm, engine, scene)
            times.append(elapsed_ms)
            tokens += said if arm is shared else 0
    captions = len(frames) * len(frames[0].regions)
    return Row(
        regions=len(frames[0].regions),
        frames=len(frames),
        shared_ms_p50=_percentile(shared_ms, 50),
        shared_ms_p95=_percentile(shared_ms, 95),
        naive_ms_p50=_percentile(naive_ms, 50),
        naive_ms_p95=_percentile(naive_ms, 95),
        ratio=round(float(np.median(np.divide(naive_ms, shared_ms))), 2),
        shared_captions_per_s=round(captions / sum(shared_ms) * 1e3, 1),
        tokens_per_caption=round(tokens / captions, 1),
    )


def shared(engine: Engine, scene: Scene) -> int:
    """One encode, one batch; returns the tokens said."""
    return _tokens(engine.caption(engine.encode(scene.image), scene.regions))


def naive(engine: Engine, scene: Scene) -> int:
    """The whole path once per region; returns the tokens said."""
    return sum(_tokens(engine.caption(engine.encode(scene.image), [r])) for r in scene.regions)


def scenes(*, frames: int, regions: int, tokens: int, seed: int = 0) -> list[Scene]:
    """Coloured blocks on noise; what they show matters little, their number and size do."""
    rng = np.random.default_rng(seed)
    return [_scene(rng, regions, tokens) for _ in range(frames)]


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal."""
    head = (
        f"{'regions':>8}{'shared p50':>12}{'p95':>9}{'naive p50':>12}{'p95':>9}"
        f"{'ratio':>8}{'capt/s':>9}{'tokens':>8}"
    )
    lines = [
        f"{r.regions:>8}{r.shared_ms_p50:>9.1f} ms{r.shared_ms_p95:>9.1f}{r.naive_ms_p50:>9.1f} ms"
        f"{r.naive_ms_p95:>9.1f}{r.ratio:>8.2f}{r.shared_captions_per_s:>9.1f}"
        f"{r.tokens_per_caption:>8.1f}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def _scene(rng: np.random.Generator, regions: int, tokens: int) -> Scene:
    height_px, width_px = _FRAME_PX
    image = rng.integers(0, 256, (height_px // 8, width_px // 8, 3), np.uint8)
    image = np.ascontiguousarray(image.repeat(8, axis=0).repeat(8, axis=1))
    inputs = []
    for _ in range(regions):
        mask = np.zeros(_FRAME_PX, np.bool_)
        y, x = int(rng.integers(0, height_px - 90)), int(rng.integers(0, width_px - 90))
        size_y, size_x = (int(side) for side in rng.integers(30, 90, 2))
        mask[y : y + size_y, x : x + size_x] = True
        image[mask] = rng.integers(0, 256, 3, np.uint8)
        inputs.append(RegionInput(mask, max_new_tokens=tokens))
    return Scene(image, tuple(inputs))


def _timed(arm: Callable[[Engine, Scene], int], engine: Engine, scene: Scene) -> tuple[float, int]:
    began_ns = time.perf_counter_ns()
    tokens = arm(engine, scene)
    return (time.perf_counter_ns() - began_ns) / 1e6, tokens


def _tokens(stream: Iterator[object]) -> int:
    return sum(end.n_tok for end in stream if isinstance(end, RowDone))


def _percentile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca bench engine",
        description="The shared prefix against the same engine run region by region.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder written by ureca export")
    parser.add_argument("--regions", type=_counts, default=[1, 4, 8], help="default: 1,4,8")
    parser.add_argument("--frames", type=int, default=20, help="frames per row (default: 20)")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens per caption")
    parser.add_argument("--threads", type=int, help="threads of the float graphs")
    return parser


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of regions like 1,4,8, got {text!r}")
    return counts
