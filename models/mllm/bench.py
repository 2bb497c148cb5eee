"""Shared prefix against per-region generation, on one checkpoint: `ureca mllm bench CHECKPOINT`.

Three arms caption the same regions of one picture, its vision already done, in turn within each
round, so that a busy machine slows all alike:

    shared      the prefix once, all regions in one batch (what the engine does)
    batch       the package's `generate` on all whole prompts in one batch: nothing shared
    per region  the package's `generate`, one region after the other

All are greedy with the same number of new tokens; tokens are compared. The last line is JSON.
A FineCaption base shares no prefix worth the name: its encoders are timed, shared and plain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ureca.datatypes import Mask, RegionInput
from ureca.errors import ConfigError
from ureca.models.mllm import generate
from ureca.models.mllm.backend import make_prefix_input
from ureca.models.mllm.finecaption.bench import run_tower_bench
from ureca.models.mllm.mllm_engine import MllmEncodedPicture, MllmEngine, open_checkpoint

_BASELINE = "per region"


@dataclass(frozen=True, kw_only=True)
class TimedArm:
    """One method: seconds of every round, and its quotient to the per-region method by round."""

    arm: str
    seconds: list[float]
    speed_up: list[float]

    @property
    def row(self) -> str:
        """Median and spread, for a table."""
        low, middle, high = _format_spread(self.seconds)
        return (
            f"{self.arm:<12}{middle:>9.3f} ({low:.3f}-{high:.3f}) s{_format_ratio(self.speed_up)}"
        )


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """The result of the bench."""

    model: str
    regions: int
    rounds: int
    prefix_tokens: int
    own_tokens: int
    new_tokens: int
    equal_rows: int
    """Rows whose tokens are the same in the shared arm and the per-region arm."""
    device: str
    threads: int
    arms: list[TimedArm]

    def table(self) -> str:
        """Format the result for a terminal."""
        head = (
            f"{self.model}: {self.regions} regions, prefix {self.prefix_tokens} + own "
            f"{self.own_tokens} tokens, {self.new_tokens} new; {self.rounds} rounds in turn on "
            f"{self.device}, {self.threads} threads"
        )
        equal = f"equal tokens: {self.equal_rows} of {self.regions} regions"
        return "\n".join([head, *(arm.row for arm in self.arms), equal])


@torch.inference_mode()
def run_bench(
    engine: MllmEngine, *, regions: int, rounds: int, new_tokens: int, seed: int = 0
) -> BenchResult:
    """Time the methods on a synthetic image. Every row generates exactly `new_tokens` tokens."""
    frame, suffixes = _make_scene(engine, regions, seed)
    model, stop = engine.model, (_find_unused_id(engine),)
    prefix = make_prefix_input(model, engine.prompt, frame.grid, frame.image_tokens)
    ways = {
        "shared": generate.generate_shared,
        "batch": generate.generate_unshared_batch,
        _BASELINE: generate.generate_per_region,
    }
    arms = {
        name: partial(way, model, prefix, suffixes, stop_ids=stop, max_new_tokens=new_tokens)
        for name, way in ways.items()
    }
    said = {name: arm() for name, arm in arms.items()}  # warm-up, and the tokens to compare
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in tqdm(range(rounds), desc="rounds", disable=None):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm()
            seconds[name].append(time.perf_counter() - began)
    pairs = zip(said["shared"], said[_BASELINE], strict=True)
    return BenchResult(
        model=engine.info.model,
        regions=regions,
        rounds=rounds,
        prefix_tokens=prefix.x.shape[1],
        own_tokens=suffixes[0].shape[1],
        new_tokens=new_tokens,
        equal_rows=sum(a == b and len(a) == new_tokens for a, b in pairs),
        device=str(model.device),
        threads=torch.get_num_threads(),
        arms=[_time_arm(name, seconds) for name in arms],
    )


def _find_unused_id(engine: MllmEngine) -> int:
    """Return an id that is never chosen, so that no row ends early and all methods do the same
    work.
    """
    return int(engine.model.base.get_output_embeddings().weight.shape[0])


def _make_scene(
    engine: MllmEngine, regions: int, seed: int
) -> tuple[MllmEncodedPicture, list[Tensor]]:
    draw = np.random.default_rng(seed)
    side = engine.config.picture.tile_px
    image = draw.integers(0, 256, (side, side, 3), np.uint8)
    frame = engine.encode(image)
    inputs = [RegionInput(_draw_box(draw, side), max_new_tokens=1) for _ in range(regions)]
    return frame, engine.make_suffixes(frame, inputs)


def _draw_box(draw: np.random.Generator, side: int) -> Mask:
    mask = np.zeros((side, side), np.bool_)
    y, x = draw.integers(0, side // 2, 2)
    height, width = draw.integers(side // 8, side // 2, 2)
    mask[y : y + height, x : x + width] = True
    return mask


def _time_arm(name: str, seconds: dict[str, list[float]]) -> TimedArm:
    pairs = zip(seconds[_BASELINE], seconds[name], strict=True)
    return TimedArm(arm=name, seconds=seconds[name], speed_up=[base / own for base, own in pairs])


def _format_spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def _format_ratio(values: Sequence[float]) -> str:
    low, middle, high = _format_spread(values)
    return f"   {middle:.2f} times as fast ({low:.2f}-{high:.2f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ureca mllm bench CHECKPOINT`."""
    parser = argparse.ArgumentParser(
        prog="ureca mllm bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: ureca mllm bench runs/two/checkpoint --regions 8 --rounds 9",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="a checkpoint or bundle of ureca-mllm")
    add("--regions", type=int, default=8, metavar="N", help="regions of one image (%(default)s)")
    add(
        "--rounds",
        type=int,
        default=7,
        metavar="N",
        help="rounds; each runs all methods (%(default)s)",
    )
    add("--tokens", type=int, default=16, metavar="N", help="new tokens per region (%(default)s)")
    add("--device", default="auto", help="cpu, cuda (default: what is there)")
    options = parser.parse_args(argv)
    if min(options.regions, options.rounds, options.tokens) < 1:
        raise ConfigError("--regions, --rounds and --tokens must be at least 1")
    engine = open_checkpoint(options.checkpoint, device=options.device)
    result = (
        run_bench(engine, regions=options.regions, rounds=options.rounds, new_tokens=options.tokens)
        if engine.model.family.own_tokens is None
        else run_tower_bench(engine.model, regions=options.regions, rounds=options.rounds)
    )
    sys.stdout.write(result.table() + "\n" + json.dumps(asdict(result)) + "\n")
    return 0
