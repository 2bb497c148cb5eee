"""Converts images and masks to network input: one numpy implementation for training, export parity
and the node.

URECA's dynamic mask modelling (arXiv 2504.05305, section 4): the aspect ratio of an image selects a
grid of square tiles, and **the same grid** cuts the mask, so tile k of the mask always lies on tile
k of the image. With more than one tile a thumbnail of the whole follows. The official code differs
between its paths; here masks are always resized by nearest neighbour (thumbnail included) and their
values are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ureca.errors import RegionError

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def _build_normalisation_table() -> F32:
    """Return the normalised value of each of 256 values in each channel: f32 [3, 256]."""
    values = np.arange(256, dtype=np.float32)[:, None] * np.float32(1.0 / 255.0)
    return np.ascontiguousarray(((values - _MEAN) / _STD).T)


_NORMALISED = _build_normalisation_table()
"""A table instead of arithmetic: the same numbers in a sixth of the time."""


class TileSizes(Protocol):
    """Sides of image tiles and mask tiles in pixels: `VisionConfig`, or another captioner's."""

    @property
    def tile_px(self) -> int:
        """Side of a picture tile."""

    @property
    def mask_px(self) -> int:
        """Side of a mask tile."""


@dataclass(frozen=True)
class Grid:
    """`cols x rows` tiles; the same for an image and all of its masks."""

    cols: int
    rows: int

    @property
    def tiles(self) -> int:
        """Number of tiles that the network reads: the grid, and a thumbnail if there is more than
        one.
        """
        return self.cols * self.rows + (self.cols * self.rows > 1)


def choose_grid(width_px: int, height_px: int, *, tile_px: int, max_tiles: int) -> Grid:
    """The grid of at most `max_tiles` tiles whose aspect ratio is nearest to the picture's.

    On a tie the larger grid wins only if the picture has more than half of its pixels (InternVL's
    rule).
    """
    if width_px < 1 or height_px < 1:
        raise RegionError(f"expected an image with pixels, got {width_px}x{height_px}")
    aspect = width_px / height_px
    grids = [
        Grid(c, r)
        for c in range(1, max_tiles + 1)
        for r in range(1, max_tiles + 1)
        if c * r <= max_tiles
    ]
    best, best_gap = Grid(1, 1), float("inf")
    for grid in sorted(grids, key=lambda g: (g.cols * g.rows, g.cols)):
        gap = abs(aspect - grid.cols / grid.rows)
        worth_it = width_px * height_px > 0.5 * grid.cols * grid.rows * tile_px**2
        if gap < best_gap or (gap == best_gap and worth_it):
            best, best_gap = grid, gap
    return best


def make_pixel_tiles(image: U8, grid: Grid, vision: TileSizes) -> F32:
    """Tile and normalise an image.

    `image` is u8 [H, W, 3] RGB. Returns f32 [T, 3, tile_px, tile_px], ImageNet mean and deviation,
    row-major tiles and then the thumbnail. Raises `RegionError` for another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise RegionError(
            f"expected an RGB image u8 [H, W, 3], got {image.dtype} {list(image.shape)}"
        )
    side = vision.tile_px
    tiles = _cut_tiles(_resize(image, grid.cols * side, grid.rows * side), grid)
    if grid.tiles > 1:
        tiles.append(_resize(image, side, side))
    planes = np.empty((len(tiles), 3, side, side), np.float32)
    for tile, channels in zip(tiles, planes, strict=True):
        for channel, plane in enumerate(channels):
            cv2.LUT(cv2.extractChannel(tile, channel), _NORMALISED[channel], plane)
    return planes


def make_mask_tiles(mask: npt.NDArray[np.bool_] | U8, grid: Grid, vision: TileSizes) -> F32:
    """Tile a mask with the image's grid.

    `mask` is bool or 0/1 u8 [H, W]. Returns f32 [T, mask_px, mask_px] with values 0 and 1. A mask
    that nearest-neighbour sampling would lose altogether keeps one cell at its centre of mass.
    """
    return np.stack(_sample_mask(mask, grid, vision)).astype(np.float32)


def make_mask_tiles_batch(
    masks: Sequence[npt.NDArray[np.bool_] | U8], grid: Grid, vision: TileSizes
) -> F32:
    """Tile N masks of one image as `make_mask_tiles` does, into one array f32 [N, T, mask_px,
    mask_px].
    """
    cells = np.empty((len(masks), grid.tiles, vision.mask_px, vision.mask_px), np.float32)
    for rows, mask in zip(cells, masks, strict=True):
        for tile, small in zip(rows, _sample_mask(mask, grid, vision), strict=True):
            tile[:] = small
    return cells


def _sample_mask(mask: npt.NDArray[np.bool_] | U8, grid: Grid, vision: TileSizes) -> list[U8]:
    """Tiles u8 [mask_px, mask_px] of one mask."""
    if mask.ndim != 2:
        raise RegionError(f"expected a mask [H, W], got {list(mask.shape)}")
    binary = _to_binary(mask)
    if not cv2.countNonZero(binary):
        raise RegionError("the mask is empty: a region needs at least one pixel")
    side = vision.mask_px
    tiles = _cut_tiles(_resize_nearest(binary, grid.cols * side, grid.rows * side), grid)
    if grid.tiles > 1:
        tiles.append(_resize_nearest(binary, side, side))
    return tiles


def compute_box_norm(mask: npt.NDArray[np.bool_] | U8) -> F32:
    """Return the tight box of a mask as f32 [4] = x0, y0, x1, y1 in 0..1 of the image's width and
    height.
    """
    x, y, across, down = cv2.boundingRect(_to_binary(mask))
    if not across:
        raise RegionError("the mask is empty: a region needs at least one pixel")
    height, width = mask.shape
    return np.array([x / width, y / height, (x + across) / width, (y + down) / height], np.float32)


def _to_binary(mask: npt.NDArray[np.bool_] | U8) -> U8:
    """Return 0 and 1, without a copy if the mask is bool already."""
    flags = mask if mask.dtype == np.bool_ else mask != 0
    return np.ascontiguousarray(flags).view(np.uint8)


def _cut_tiles(picture: U8, grid: Grid) -> list[U8]:
    rows = np.split(picture, grid.rows, axis=0)
    return [tile for row in rows for tile in np.split(row, grid.cols, axis=1)]


def _resize(image: U8, width_px: int, height_px: int) -> U8:
    """Area averaging when shrinking (no aliasing from large camera frames), linear when growing."""
    shrinks = width_px * height_px < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width_px, height_px), interpolation=method), np.uint8)


def _resize_nearest(mask: U8, width_px: int, height_px: int) -> U8:
    small = np.asarray(
        cv2.resize(mask, (width_px, height_px), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )
    if not small.any():
        ys, xs = np.nonzero(mask)
        row = int(ys.mean() / mask.shape[0] * height_px)
        col = int(xs.mean() / mask.shape[1] * width_px)
        small[min(row, height_px - 1), min(col, width_px - 1)] = 1
    return small
