"""Cuts images and masks into tiles: by the project's shared rule, or as the published weights' code
does.

Both cut the image and its masks by one grid (`models/preprocess.py`). The official way resizes with
Pillow: images bicubic, mask tiles by nearest neighbour, the mask's thumbnail bicubic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask
from ureca.errors import RegionError
from ureca.extras import require
from ureca.models.mllm.config import IMAGENET_MEAN, IMAGENET_STD, MllmConfig
from ureca.models.preprocess import Grid, choose_grid, make_mask_tiles_batch, make_pixel_tiles

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
EXTRA = "mllm"


@dataclass(frozen=True)
class ImageTiler:
    """The tiling of one captioner; `models/preprocess.py` reads `tile_px` and `mask_px`."""

    tile_px: int
    mask_px: int
    max_tiles: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    official: bool

    @classmethod
    def of(cls, config: MllmConfig) -> ImageTiler:
        """Return the tiler of a captioner."""
        picture = config.picture
        return cls(
            picture.tile_px,
            config.mask.side_px,
            picture.max_tiles,
            picture.mean,
            picture.std,
            picture.resampling == "official",
        )

    def choose_grid(self, width_px: int, height_px: int) -> Grid:
        """Choose the grid for an image and all of its masks."""
        return choose_grid(width_px, height_px, tile_px=self.tile_px, max_tiles=self.max_tiles)

    def make_pixel_tiles(self, image: Image, grid: Grid) -> F32:
        """u8 [H, W, 3] RGB -> f32 [T, 3, tile_px, tile_px], normalised."""
        if self.official:
            return self._normalise(_resize_official(image, grid, self.tile_px, last="BICUBIC"))
        tiles = make_pixel_tiles(image, grid, self)
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            return tiles
        whole = tiles * _to_planes(IMAGENET_STD) + _to_planes(IMAGENET_MEAN)
        return np.asarray((whole - _to_planes(self.mean)) / _to_planes(self.std), np.float32)

    def make_mask_tiles(self, masks: Sequence[Mask], grid: Grid) -> F32:
        """N masks bool [H, W] of the picture's size -> f32 [N, T, mask_px, mask_px] of 0..1."""
        if not self.official:
            return make_mask_tiles_batch(masks, grid, self)
        if not all(mask.any() for mask in masks):
            raise RegionError("the mask is empty: a region needs at least one pixel")
        whole = [mask.astype(np.uint8) * np.uint8(255) for mask in masks]
        tiles = [
            _resize_official(m, grid, self.mask_px, first="NEAREST", last="BICUBIC") for m in whole
        ]
        return np.stack(tiles).astype(np.float32) / np.float32(255)

    def _normalise(self, tiles: U8) -> F32:
        planes = tiles.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        return np.asarray((planes - _to_planes(self.mean)) / _to_planes(self.std), np.float32)


def _to_planes(values: tuple[float, float, float]) -> F32:
    return np.array(values, np.float32)[:, None, None]


def _resize_official(image: U8, grid: Grid, side: int, *, first: str = "BICUBIC", last: str) -> U8:
    """Return tiles u8 [T, side, side(, 3)] by Pillow; the thumbnail is resized from the whole
    image.
    """
    pillow = require("PIL.Image", extra=EXTRA)
    whole, ways = pillow.fromarray(np.ascontiguousarray(image)), pillow.Resampling
    big = np.asarray(whole.resize((grid.cols * side, grid.rows * side), ways[first]))
    tiles = [tile for row in np.split(big, grid.rows) for tile in np.split(row, grid.cols, axis=1)]
    if grid.tiles > 1:
        tiles.append(np.asarray(whole.resize((side, side), ways[last])))
    return np.stack(tiles)
