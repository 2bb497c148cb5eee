"""Turns regions with a picture whose EXIF orientation says that it lies on its side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ureca.datatypes import Mask, RegionSeed, Rle
from ureca.protocol import rle

_Point = tuple[float, float]


def turn_seeds(
    seeds: Iterable[RegionSeed], orientation: int, width_px: int, height_px: int
) -> tuple[RegionSeed, ...]:
    """`seeds` of a picture as stored, of this size, on the picture turned by `orientation` (EXIF,
    5..8).
    """
    return tuple(_turned(seed, orientation, width_px, height_px) for seed in seeds)


def _turned(seed: RegionSeed, orientation: int, width: int, height: int) -> RegionSeed:
    def point(xy: _Point) -> _Point:
        """A pixel: the last column is `width - 1`."""
        return _place(xy, orientation, width - 1, height - 1)

    box: tuple[float, float, float, float] | None = None
    if seed.box_xyxy_px is not None:
        first = _place(seed.box_xyxy_px[:2], orientation, width, height)
        last = _place(seed.box_xyxy_px[2:], orientation, width, height)
        box = (
            min(first[0], last[0]),
            min(first[1], last[1]),
            max(first[0], last[0]),
            max(first[1], last[1]),
        )
    return replace(
        seed,
        mask=None if seed.mask is None else _turned_mask(seed.mask, orientation),
        box_xyxy_px=box,
        point_xy_px=None if seed.point_xy_px is None else point(seed.point_xy_px),
        more_points_xy_px=tuple(map(point, seed.more_points_xy_px)),
        not_points_xy_px=tuple(map(point, seed.not_points_xy_px)),
        polygons_xy_px=tuple(
            tuple(_place(corner, orientation, width, height) for corner in polygon)
            for polygon in seed.polygons_xy_px
        ),
    )


def _place(xy: _Point, orientation: int, right: float, bottom: float) -> _Point:
    x, y = xy
    new_x = y if orientation in (5, 8) else max(0.0, bottom - y)
    new_y = x if orientation in (5, 6) else max(0.0, right - x)
    return new_x, new_y


def _turned_mask(mask: Rle, orientation: int) -> Rle:
    turned: Mask = rle.decode(mask).T
    if orientation in (6, 7):
        turned = turned[:, ::-1]
    if orientation in (7, 8):
        turned = turned[::-1]
    return rle.encode(np.ascontiguousarray(turned))
