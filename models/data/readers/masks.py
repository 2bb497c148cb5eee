"""Converts regions of other data sets (polygons, run lengths, boxes) to our masks.

Everything is checked before a mask is allocated or passed to pycocotools, whose C code checks
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ureca.datatypes import Mask, Rle
from ureca.errors import RegionError
from ureca.extras import require
from ureca.protocol import rle

MAX_POINTS = 100_000
"""Corners of all polygons of a region."""
_SLACK_PX = 2.0
"""How far a corner may lie outside its picture."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


def decode_coco_mask(segmentation: Any, height: int, width: int) -> Rle:  # JSON
    """COCO's `segmentation`: polygons, run lengths (compressed or not), or a list of run lengths.

    Raises `RegionError` for what is none, is too large, or belongs to another size.
    """
    if isinstance(segmentation, dict):
        return _decode_run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise RegionError(f"expected polygons or run lengths, got {segmentation!r:.60}")
    if isinstance(segmentation[0], dict):
        masks = [rle.decode(_decode_run_lengths(part, height, width)) for part in segmentation]
        return rle.encode(np.logical_or.reduce(masks))
    return _fill_polygons(segmentation, height, width)


def fill_boxes(boxes: Sequence[Box], height: int, width: int) -> Rle:
    """Filled boxes, cut off at the picture's edge. Raises `RegionError` for one that is no box."""
    mask = np.zeros((height, width), np.bool_)
    for x0, y0, x1, y1 in boxes:
        if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
            raise RegionError(f"expected a box x0 < x1, y0 < y1, got {[x0, y0, x1, y1]}")
        left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
        right, bottom = min(width, math.ceil(x1)), min(height, math.ceil(y1))
        mask[top : max(top, bottom), left : max(left, right)] = True
    return rle.encode(mask)


def _decode_run_lengths(code: Any, height: int, width: int) -> Rle:
    if not isinstance(code, dict) or code.get("size") != [height, width]:
        found = code.get("size") if isinstance(code, dict) else code
        raise RegionError(f"expected run lengths of size {[height, width]}, got {found!r:.60}")
    counts = code.get("counts")
    if isinstance(counts, str):
        found_rle = Rle(size=(height, width), counts=counts)
        rle.check(found_rle)
        return found_rle
    return rle.encode(_decode_counts(counts, height, width))


def _decode_counts(counts: Any, height: int, width: int) -> Mask:
    if not isinstance(counts, list) or len(counts) > rle.MAX_RUNS:
        raise RegionError(
            f"expected a text or up to {rle.MAX_RUNS} run lengths, got {counts!r:.60}"
        )
    if not all(type(run) is int and 0 <= run <= height * width for run in counts):
        raise RegionError("expected run lengths that are integers from 0 on")
    if sum(counts) != height * width:
        raise RegionError(f"the runs add up to {sum(counts)}, expected {height}*{width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def _fill_polygons(polygons: list[Any], height: int, width: int) -> Rle:
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise RegionError(f"expected polygons [[x, y, x, y, ...], ...], got {polygons!r:.60}")
    if sum(map(len, polygons)) > 2 * MAX_POINTS:
        raise RegionError(f"polygons of more than {MAX_POINTS} corners are not taken")
    for polygon in polygons:
        _check_polygon(polygon, height, width)
    coco = require("pycocotools.mask", extra="train")
    merged = coco.merge(coco.frPyObjects(polygons, height, width))
    return Rle(size=(height, width), counts=merged["counts"].decode("ascii"))


def _check_polygon(polygon: list[Any], height: int, width: int) -> None:
    if len(polygon) < 6 or len(polygon) % 2:
        raise RegionError(f"expected a polygon of three corners or more, got {polygon!r:.60}")
    if not all(type(value) in (int, float) for value in polygon):
        raise RegionError(f"expected numbers, got {polygon!r:.60}")
    corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    if not ((corners >= -_SLACK_PX) & (corners <= (width + _SLACK_PX, height + _SLACK_PX))).all():
        raise RegionError(f"a corner lies outside the picture of {width}x{height}")
