"""Distorts masks as a tracker does: the true region, with errors of a requested strength.

A tracked mask never equals the annotator's mask. It lags behind, is too large or too small, comes
from a coarse grid or is a box, lacks what a hand covered and includes a piece of the neighbour.
`make_noisy_mask` draws a target overlap with the true mask and applies random kinds of error until
the overlap is close to it, so the strength is calibrated for every shape and size. Errors scale
with the region itself (area, outline, box), so a tile of 160 x 160 cells and a full image are
distorted alike. Everything happens in a crop around the region, which is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ureca.errors import RegionError

Bool = npt.NDArray[np.bool_]
U8 = npt.NDArray[np.uint8]

MEAN_IOU, IOU_DEVIATION = 0.7, 0.11
_LOWEST_IOU, _HIGHEST_IOU = 0.45, 0.95
_ROUNDS = 5
_NEAR_ENOUGH = 0.06
_MARGIN = 0.6  # of the region's box, on each side: what an added piece or a shift may need
_CELL_ERROR = 0.23  # wrong area of a coarse grid, in cells' sides per length of outline


@dataclass(frozen=True, slots=True)
class _Job:
    """One distortion: a crop u8 [h, w] of 0/1 with pixels, and the target overlap."""

    mask: U8
    iou: float
    rng: np.random.Generator

    @property
    def area(self) -> float:
        """Pixels of the region."""
        return float(cv2.countNonZero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height of the region in the crop."""
        x, y, width, height = cv2.boundingRect(self.mask)
        return x, y, width, height


def make_noisy_mask(mask: Bool, rng: np.random.Generator) -> Bool:
    """Return a mask bool [H, W] as a tracker would give for the region `mask` bool [H, W].

    The overlap (IoU) with the true mask is about 0.7 on average and mostly between 0.5 and 0.9. It
    is closer to 1 for regions of a few pixels, because nothing lies between "equal" and "wrong".
    The result is never empty and deterministic in `rng`. Raises `RegionError` for an empty mask or
    another type.
    """
    wanted = float(rng.normal(MEAN_IOU, IOU_DEVIATION))
    return distort_mask(mask, rng, iou=min(max(wanted, _LOWEST_IOU), _HIGHEST_IOU))


def distort_mask(mask: Bool, rng: np.random.Generator, *, iou: float) -> Bool:
    """Distort `mask` bool [H, W] until its overlap with the true mask is about `iou` in (0, 1].

    For evaluation at a given overlap. Raises `RegionError` for an empty mask, another type or
    an `iou` outside (0, 1].
    """
    _check_arguments(mask, iou)
    left, top, right, bottom = _find_crop(mask)
    true = np.ascontiguousarray(mask[top:bottom, left:right]).view(np.uint8)
    out = np.zeros_like(mask)
    out[top:bottom, left:right] = _distort(true, iou, rng).view(np.bool_)
    return out


def _check_arguments(mask: Bool, iou: float) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise RegionError(f"expected a mask bool [H, W], got {mask.dtype} {list(mask.shape)}")
    if not 0 < iou <= 1:
        raise RegionError(f"expected an overlap in (0, 1], got {iou}")


def _find_crop(mask: Bool) -> tuple[int, int, int, int]:
    """Return the region's box with a margin, inside the image: left, top, right, bottom."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if not width:
        raise RegionError("the mask is empty: a region needs at least one pixel")
    dx, dy = int(width * _MARGIN) + 2, int(height * _MARGIN) + 2
    rows, cols = mask.shape
    return max(0, x - dx), max(0, y - dy), min(cols, x + width + dx), min(rows, y + height + dy)


def _distort(true: U8, wanted: float, rng: np.random.Generator) -> U8:
    """Apply random kinds of error in turn until the overlap is close to the target; return the
    closest mask.
    """
    now, overlap = true, 1.0
    share = min(1.0, rng.uniform(0.5, 1.2))  # of the whole error that the first kind makes
    for number, kind in enumerate(rng.integers(0, len(_KINDS), _ROUNDS).tolist()):
        aim = wanted / overlap if number else wanted**share
        # At least enough to change something.
        made = _KINDS[kind](_Job(now, min(aim, 0.97), rng))
        reached = _compute_iou(true, made)
        # A region of a pixel or two can vanish, which is closer to a low overlap than no change.
        if reached > 0 and abs(reached - wanted) < abs(overlap - wanted):
            now, overlap = made, reached
        if overlap - wanted < _NEAR_ENOUGH:
            break
    return now


def _compute_iou(true: U8, made: U8) -> float:
    """Return the overlap of two 0/1 masks, the first not empty; 0 if the second is empty."""
    common = cv2.countNonZero(cv2.bitwise_and(true, made))
    return common / cv2.countNonZero(cv2.bitwise_or(true, made))


def _measure_outline(job: _Job) -> float:
    """Return the length of the outline in pixels: the region's cells that touch something else."""
    inner = cv2.erode(job.mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return max(1.0, job.area - cv2.countNonZero(inner))


def _shrink(job: _Job) -> U8:
    """Move the outline inside the true one, with waves."""
    depth = job.area / _measure_outline(job) * (1 - job.iou)
    padded = cv2.copyMakeBorder(job.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.asarray(inside > depth * _make_waves(job) + 0.5, np.bool_).view(np.uint8)


def _grow(job: _Job) -> U8:
    """Move the outline outside the true one, with waves."""
    # area + outline * r + pi * r^2 = area / iou
    half = _measure_outline(job) / (2 * math.pi)
    reach = math.sqrt(half**2 + job.area * (1 / job.iou - 1) / math.pi) - half
    outside = cv2.distanceTransform(1 - job.mask, cv2.DIST_L2, 3)
    return np.asarray(outside <= reach * _make_waves(job) + 0.5, np.bool_).view(np.uint8)


def _make_waves(job: _Job) -> npt.NDArray[np.float32]:
    """Return a smooth random field f32 [h, w] around 1, which makes an error larger or smaller."""
    coarse = job.rng.uniform(0.2, 1.8, (4, 4)).astype(np.float32)
    rows, cols = job.mask.shape
    return np.asarray(cv2.resize(coarse, (cols, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def _move(job: _Job) -> U8:
    """Shift by a part of the region's own width, as a tracker that lags."""
    _, _, width, height = job.box
    angle = job.rng.uniform(0, 2 * math.pi)
    across = math.hypot(width * math.sin(angle), height * math.cos(angle))
    step = job.area / across * (1 - job.iou) / (1 + job.iou)
    return _warp(job, 1.0, 1.0, (step * math.cos(angle), step * math.sin(angle)))


def _scale(job: _Job) -> U8:
    """Scale about the centre, not equally in both directions."""
    ratio = job.iou if job.rng.random() < 0.5 else 1 / job.iou
    share = job.rng.uniform(0.2, 0.8)
    return _warp(job, ratio**share, ratio ** (1 - share), (0.0, 0.0))


def _warp(job: _Job, sx: float, sy: float, step: tuple[float, float]) -> U8:
    x, y, width, height = job.box
    cx, cy = x + width / 2 - 0.5, y + height / 2 - 0.5
    matrix = np.array(
        [[sx, 0.0, cx - sx * cx + step[0]], [0.0, sy, cy - sy * cy + step[1]]], np.float64
    )
    size = (job.mask.shape[1], job.mask.shape[0])
    return np.asarray(cv2.warpAffine(job.mask, matrix, size, flags=cv2.INTER_NEAREST), np.uint8)


def _box(job: _Job) -> U8:
    """Replace the mask by its box, or a thin object's mask by its hull, because its box says
    little.
    """
    x, y, width, height = job.box
    out = np.zeros_like(job.mask)
    if job.area >= 0.4 * width * height:
        out[y : y + height, x : x + width] = 1
        return out
    hull = cv2.convexHull(cv2.findNonZero(job.mask))
    return np.asarray(cv2.fillConvexPoly(out, hull, 1), np.uint8)


def _coarsen(job: _Job) -> U8:
    """Resample on a coarse grid, as a mask that was made at low resolution."""
    wrong = 2 * job.area * (1 - job.iou) / (1 + job.iou)
    cell = max(2.0, wrong / (_measure_outline(job) * _CELL_ERROR))
    rows, cols = job.mask.shape
    grid = (max(2, round(cols / cell)), max(2, round(rows / cell)))
    small = cv2.resize(job.mask * np.uint8(255), grid, interpolation=cv2.INTER_AREA)
    level = int(job.rng.integers(90, 160))
    large = cv2.resize(small, (cols, rows), interpolation=cv2.INTER_NEAREST)
    return np.asarray(large > level, np.bool_).view(np.uint8)


def _cut_strip(job: _Job) -> U8:
    """Remove a strip of one side, as if something were in front."""
    out = job.mask.copy()
    rows, far = job.rng.random() < 0.5, job.rng.random() < 0.5
    counts = cv2.reduce(job.mask, int(rows), cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    gone = np.cumsum(counts[::-1] if far else counts) <= job.area * (1 - job.iou)
    lost = int(gone.sum())
    strip = slice(len(counts) - lost, None) if far else slice(0, lost)
    out[(strip, slice(None)) if rows else (slice(None), strip)] = 0
    return out


def _add_holes(job: _Job) -> U8:
    """Cut some round holes."""
    # A part of a hole falls outside of the region or into another hole.
    return _draw_blobs(job, 1.3 * job.area * (1 - job.iou), int(job.rng.integers(1, 5)), value=0)


def _add_blob(job: _Job) -> U8:
    """Add a piece of the neighbour: a blob on the region's outline."""
    # About half of a blob around a point of the region falls outside of it.
    return _draw_blobs(job, 2 * job.area * (1 / job.iou - 1), int(job.rng.integers(1, 3)), value=1)


def _draw_blobs(job: _Job, area: float, count: int, *, value: int) -> U8:
    """Draw ellipses of 0 or 1 around random points: inside for holes, on the rim for added
    pieces.
    """
    out = job.mask.copy()
    where = job.mask if value == 0 else job.mask - cv2.erode(job.mask, _CROSS)
    points = np.flatnonzero(where if where.any() else job.mask)
    radius = math.sqrt(area / count / math.pi)
    for spot in points[job.rng.integers(0, len(points), count)]:
        row, col = divmod(int(spot), out.shape[1])
        stretch = job.rng.uniform(0.6, 1.6)
        axes = (round(radius * stretch), round(radius / stretch))
        cv2.ellipse(out, (col, row), axes, float(job.rng.uniform(0, 180)), 0, 360, value, -1)
    return out


def _smooth(job: _Job) -> U8:
    """Smooth the outline: corners become round, thin parts are lost or thicker."""
    sigma = max(
        0.6, 3.0 * (1 - job.iou) * job.area / _measure_outline(job) + 0.05 * math.sqrt(job.area)
    )
    level = int(job.rng.integers(70, 160))
    soft = cv2.blur(job.mask * np.uint8(255), (2 * math.ceil(sigma) + 1,) * 2)
    return np.asarray(soft > level, np.bool_).view(np.uint8)


_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_KINDS: tuple[Callable[[_Job], U8], ...] = (
    *[_shrink] * 3, *[_grow] * 4, *[_move] * 6, *[_scale] * 4, *[_box] * 3,
    *[_coarsen] * 4, *[_cut_strip] * 3, *[_add_holes] * 2, *[_add_blob] * 3, *[_smooth] * 2,
)  # fmt: skip
"""Every kind, repeated by its frequency."""
