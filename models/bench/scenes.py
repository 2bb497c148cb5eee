"""Makes seeded frames with any number of regions for measurements. They contain no photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ureca.datatypes import Image, RegionInput

_FRAME_PX = (360, 640)


@dataclass(frozen=True, slots=True)
class BenchScene:
    """One frame u8 [H, W, 3] and its regions."""

    image: Image
    regions: tuple[RegionInput, ...]


def make_scenes(*, frames: int, regions: int, tokens: int, seed: int = 0) -> list[BenchScene]:
    """Make frames of coloured blocks on noise. Their content matters little, their number and size
    do.

    No caption becomes longer than `tokens`.
    """
    rng = np.random.default_rng(seed)
    return [_make_scene(rng, regions, tokens) for _ in range(frames)]


def _make_scene(rng: np.random.Generator, regions: int, tokens: int) -> BenchScene:
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
    return BenchScene(image, tuple(inputs))
