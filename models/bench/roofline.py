"""Computes what this machine could reach at best, and the share of it that a stage reaches.

Two peaks are measured at start: float32 matrix products of one core, and reading memory. A stage's
bound is the slower of its arithmetic at the first peak and its weights at the second (the roofline
of Williams et al., CACM 2009). Int8 may exceed a float32 roof; the share is then above 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ureca.models.config import CaptionerConfig

_TRUNK_MACS = 407e6  # EfficientNet-Lite0 at 224 x 224, its authors' figure
_HEAD_MACS = 320 * 1280
_SIDE = 1024
_BYTES = 1 << 28
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Peaks:
    """Best of a few short runs; `gemm_gflops` per core-second, `memory_gb_s` of one thread."""

    gemm_gflops: float
    memory_gb_s: float


@dataclass(frozen=True, slots=True)
class StageWork:
    """Arithmetic and weight bytes (float32) of one stage of one frame."""

    flop: float
    weight_bytes: float

    def bound_ms(self, peaks: Peaks, threads: int) -> float:
        """Return the least time that the stage can take."""
        arithmetic_s = self.flop / (peaks.gemm_gflops * 1e9 * threads)
        return 1e3 * max(arithmetic_s, self.weight_bytes / (peaks.memory_gb_s * 1e9))


def measure_peaks() -> Peaks:
    """Measure the peaks in about a second."""
    square = np.random.default_rng(0).random((_SIDE, _SIDE), np.float32)
    memory = np.zeros(_BYTES // 8)
    gemm_s = min(_measure_cpu_s(lambda: square @ square) for _ in range(_REPEATS))
    read_s = min(_measure_wall_s(memory.sum) for _ in range(_REPEATS))
    return Peaks(round(2 * _SIDE**3 / gemm_s / 1e9, 1), round(_BYTES / read_s / 1e9, 1))


def count_work(config: CaptionerConfig, *, regions: int, tokens: float) -> dict[str, StageWork]:
    """Count the work of each stage of a frame with `regions` captions of `tokens` tokens each.

    Only matrix products and convolutions count. Norms, softmax and resampling are left out, so
    shares are a little too low.
    """
    language, vision = config.language, config.vision
    block = 4 * language.width**2 + 3 * language.width * language.ff_width
    weights = float(language.layers * block)
    words = float(language.width * language.vocab_size)
    image = vision.tokens_per_tile
    prompt = config.regions.count_tokens(1) + 1
    steps = max(0.0, tokens - 1)
    said = prompt + steps
    looked = 2 * language.layers * language.width * (image + said / 2)
    unread = float(
        language.width**2 + 3 * language.width * language.ff_width
    )  # `LanguageModel.run`
    decode = regions * (said * (weights + looked) - (prompt - 1) * unread + (1 + steps) * words)
    return {
        "vision": StageWork(2 * _count_vision_macs(config), 4 * 5e6),
        "prefix": StageWork(2 * (image * weights - (image - 1) * unread), 4 * weights),
        "regions": StageWork(
            2 * (_count_projected_macs(config) + regions * _count_region_macs(config)),
            4 * _count_region_weights(config),
        ),
        "decode": StageWork(2 * decode, 4 * (weights + words) * (1 + steps)),
    }


def _count_vision_macs(config: CaptionerConfig) -> float:
    side = config.vision.tile_px
    fine, middle, coarse = ((side // stride) ** 2 for stride in (8, 16, 32))
    fused = config.regions.fused_channels
    pyramid = fine * 40 * fused + middle * (112 + 9 * fused) * fused + coarse * 320 * fused
    trunk = (_TRUNK_MACS - 49 * _HEAD_MACS) * (side / 224) ** 2
    return trunk + coarse * _HEAD_MACS + pyramid


def _count_region_weights(config: CaptionerConfig) -> float:
    width, fused = config.language.width, config.regions.fused_channels
    mask = (config.vision.mask_px // 4) ** 2 * width
    pooled = 1280 * (1000 + 512) + 1000 * width + 512 * (2 * fused + 2 * width)
    grid = 128 * (2 * fused + 4) + 9 * 128 * 96 + 96 * 16 * 2 * width
    return float(mask + pooled * config.regions.pooled_features + grid)


def _count_projected_macs(config: CaptionerConfig) -> float:
    """Count the products on both pyramid maps before grids are sampled, once for all regions."""
    fused = config.regions.fused_channels
    cells = sum((config.vision.tile_px // stride) ** 2 for stride in (8, 16))
    return float(cells * fused * 128 * bool(config.regions.grids))


def _count_region_macs(config: CaptionerConfig) -> float:
    width, fused = config.language.width, config.regions.fused_channels
    cells = [(config.vision.tile_px // stride) ** 2 for stride in (8, 16, 32)]
    pooled = cells[0] * fused + cells[1] * fused + cells[2] * 1280
    grid = 64 * 128 * 4 + 16 * 9 * 128 * 96 + 96 * 16 * 2 * width
    mask = config.regions.num_mask_tokens * (config.vision.mask_px // 4) ** 2 * width
    dense = 1280 * (1000 + 512) + 1000 * width + 512 * (2 * fused + 2 * width)
    return float(mask + pooled + dense + grid * len(config.regions.grids))


def _measure_cpu_s(run: Callable[[], object]) -> float:
    """Return seconds summed over all cores. A product that runs on two cores counts what one can
    do.
    """
    began = time.process_time()
    run()
    return time.process_time() - began


def _measure_wall_s(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
