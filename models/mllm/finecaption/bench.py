"""Shared encoders against the plain fusion: what `ureca mllm bench` times on a FineCaption base.

Two arms make the image tokens of the same regions of one random picture, in turn within each
round, so that a busy machine slows both alike. Seconds are the processor's where there is no GPU:

    shared      ConvNeXt and SAM once for the picture, CLIP once for every region
    plain       all encoders for every region, one after the other
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ureca.models.mllm.finecaption import fusion
from ureca.models.mllm.network.model import Mllm


@dataclass(frozen=True, kw_only=True)
class TowerBench:
    """Seconds of every round, how many times faster sharing was in it, and the tokens' greatest
    difference, over the greatest token.
    """

    regions: int
    tokens: int
    difference: float
    shared_s: list[float]
    plain_s: list[float]
    speed_up: list[float]

    def table(self) -> str:
        """Format the result for a terminal."""
        head = (
            f"image tokens of {self.regions} regions, {self.tokens} each; difference "
            f"{self.difference:.1e}"
        )
        arms = (("shared", self.shared_s, self.speed_up), ("plain", self.plain_s, [1.0]))
        rows = [
            f"{name:<12}{median(taken):>9.3f} ({min(taken):.3f}-{max(taken):.3f}) s   "
            f"{median(ratio):.2f} times as fast ({min(ratio):.2f}-{max(ratio):.2f})"
            for name, taken, ratio in arms
        ]
        return "\n".join([head, *rows])


@torch.inference_mode()
def run_tower_bench(model: Mllm, *, regions: int, rounds: int, seed: int = 0) -> TowerBench:
    """Time both arms; every region has a mask of its own."""
    config = model.config
    draw = torch.Generator().manual_seed(seed)
    side, mask_px = config.picture.tile_px, config.mask.side_px
    tiles = torch.randn(1, 3, side, side, generator=draw).to(model.device, model.dtype)
    masks = (torch.rand(regions, 1, mask_px, mask_px, generator=draw) > 0.5).float()
    masks = masks.to(model.device)
    ways: tuple[Callable[[], Tensor], ...] = (
        lambda: fusion.encode_regions(model.base, masks, fusion.encode_frame(model.base, tiles)),
        lambda: torch.cat(
            [fusion.encode_regions_alone(model.base, tiles, one) for one in masks.split(1)]
        ),
    )
    ours, theirs = (_run(way)[1] for way in ways)  # warm-up, and the tokens to compare
    taken = [[_run(way)[0] for way in ways] for _ in range(rounds)]
    return TowerBench(
        regions=regions,
        tokens=ours.shape[1],
        difference=float((ours - theirs).abs().max() / theirs.abs().max()),
        shared_s=[shared for shared, _ in taken],
        plain_s=[plain for _, plain in taken],
        speed_up=[plain / shared for shared, plain in taken],
    )


def _run(way: Callable[[], Tensor]) -> tuple[float, Tensor]:
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    began = clock()
    tokens = way()
    if tokens.is_cuda:
        torch.cuda.synchronize()
    return clock() - began, tokens
