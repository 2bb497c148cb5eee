"""Converts a region of a sender or a prompt (mask, box, point, polygons) to a mask of the frame.

Masks and filled polygons are used unchanged. Boxes and points become masks by GrabCut at once,
which a segmenter replaces where there is one (`tracking/mask_correction`): a box that GrabCut
cannot fill sensibly stays a filled rectangle, and a point is grown by flood fill over similar
colours before GrabCut tidies it, so a point on a two-coloured object finds one of its colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ureca.datatypes import Image, Mask, RegionSeed, Rle
from ureca.errors import RegionError
from ureca.node.masks.geometry import Box, clip_box
from ureca.protocol.rle import decode

Pixel = tuple[int, int]
"""x and y."""

_FRACTION_BITS = 8
_FAR_PX = 1 << 16
_GRABCUT_ROUNDS = 3
_WORK_SIDE_PX = 320
"""GrabCut runs on a picture of at most this side: it costs ~20 ms there and seconds on a full
frame."""
_FLOOD_TOLERANCE = (14, 10, 10)
_POINT_REACH = 0.3
"""A point grows at most this share of the shorter side away."""


def seed_mask(seed: RegionSeed, image: Image) -> Mask:
    """The mask bool [H, W] that `seed` means on `image`. Raises `RegionError` when there is
    none.
    """
    height, width = image.shape[:2]
    if seed.mask is not None:
        return _given(seed.mask, height, width)
    if seed.polygons_xy_px:
        return _filled(seed.polygons_xy_px, height, width)
    first = () if seed.point_xy_px is None else (seed.point_xy_px,)
    points = [(int(x), int(y)) for x, y in (*first, *seed.more_points_xy_px)]
    for x, y in (*first, *seed.more_points_xy_px, *seed.not_points_xy_px):
        if not (0 <= x < width and 0 <= y < height):
            raise RegionError(
                f"the point ({x:g}, {y:g}) lies outside the frame of {width}x{height}"
            )
    if seed.box_xyxy_px is None:
        return _from_points(points, image, seed)
    mask = _from_box(clip_box(seed.box_xyxy_px, height, width), points, image, seed)
    if not mask.any():
        raise RegionError("the points beside the region leave nothing of its box")
    return mask


def _given(rle: Rle, height: int, width: int) -> Mask:
    if rle.size != (height, width):
        raise RegionError(
            f"the mask's size {list(rle.size)} is not the frame's [{height}, {width}]"
        )
    mask = decode(rle)
    if not mask.any():
        raise RegionError("the mask is empty: a region needs at least one pixel")
    return mask


def _filled(polygons: Sequence[Sequence[tuple[float, float]]], height: int, width: int) -> Mask:
    """All polygons together; where two overlap is no hole."""
    picture = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        # The middle of pixel (0, 0) is at .5, .5; corners far away would overflow OpenCV's numbers.
        corners = np.clip(np.asarray(polygon) - 0.5, -_FAR_PX, _FAR_PX)
        fixed = np.round(corners * (1 << _FRACTION_BITS)).astype(np.int32)
        cv2.fillPoly(picture, [fixed], 1, shift=_FRACTION_BITS)
    if not picture.any():
        raise RegionError("the polygons cover no pixel of the frame")
    return np.asarray(picture > 0, np.bool_)


def _from_box(box: Box, points: Sequence[Pixel], image: Image, seed: RegionSeed) -> Mask:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    filled = np.zeros((height, width), np.bool_)
    filled[y0:y1, x0:x1] = True
    hints = np.full((height, width), cv2.GC_BGD, np.uint8)
    hints[y0:y1, x0:x1] = cv2.GC_PR_FGD
    _mark_clicks(hints, points, seed)
    refined = _grabcut(image, hints)
    share = np.count_nonzero(refined) / np.count_nonzero(filled)
    return refined if 0.25 <= share <= 0.98 else filled & (hints != cv2.GC_BGD)


def _from_points(points: Sequence[Pixel], image: Image, seed: RegionSeed) -> Mask:
    """Flood fill around each point, then GrabCut for all of them together."""
    height, width = image.shape[:2]
    reach = max(8, int(_POINT_REACH * min(height, width)))
    xs, ys = zip(*points, strict=True)
    box = (min(xs) - reach, min(ys) - reach, max(xs) + reach, max(ys) + reach)
    x0, y0, x1, y1 = clip_box(box, height, width)
    grown = np.zeros((height, width), np.bool_)
    for x, y in points:
        here = clip_box((x - reach, y - reach, x + reach, y + reach), height, width)
        window = slice(here[1], here[3]), slice(here[0], here[2])
        grown[window] |= _flood(image[window], x - here[0], y - here[1])
    hints = np.full((height, width), cv2.GC_BGD, np.uint8)
    hints[y0:y1, x0:x1] = cv2.GC_PR_BGD
    hints[grown] = cv2.GC_PR_FGD
    _mark_clicks(hints, points, seed)
    refined = _grabcut(image, hints)
    mask = refined if 0.5 <= np.count_nonzero(refined) / np.count_nonzero(grown) <= 4 else grown
    mask = mask & (hints != cv2.GC_BGD)
    return np.asarray(np.any([_part_at(mask, x, y) for x, y in points], axis=0), np.bool_)


def _mark_clicks(
    hints: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    points: Sequence[Pixel],
    seed: RegionSeed,
) -> None:
    """Clicks decide where they are, and GrabCut around them."""
    outside = [(int(x), int(y)) for x, y in seed.not_points_xy_px]
    for places, kind in ((points, cv2.GC_FGD), (outside, cv2.GC_BGD)):
        for place in places:
            cv2.circle(hints, place, 2, kind, -1)


def _flood(image: Image, x: int, y: int) -> Mask:
    lab = np.asarray(cv2.cvtColor(cv2.GaussianBlur(image, (5, 5), 0), cv2.COLOR_RGB2LAB))
    filled = np.zeros((lab.shape[0] + 2, lab.shape[1] + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    cv2.floodFill(lab, filled, (x, y), 0, _FLOOD_TOLERANCE, _FLOOD_TOLERANCE, flags)
    return np.asarray(filled[1:-1, 1:-1] > 0, np.bool_)


def _part_at(mask: Mask, x: int, y: int) -> Mask:
    """The connected part of `mask` at the point, or the 5x5 pixels around it when the mask missed
    it.
    """
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    if parts[y, x]:
        return np.asarray(parts == parts[y, x], np.bool_)
    small = np.zeros_like(mask)
    small[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    return small


def _grabcut(image: Image, hints: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Mask:
    """GrabCut from `hints` u8 [H, W] of cv2.GC_* values; an empty mask when OpenCV cannot fit its
    models.
    """
    height, width = hints.shape
    scale = min(1.0, _WORK_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    labels = np.asarray(cv2.resize(hints, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    models = np.zeros((2, 1, 65), np.float64)
    cv2.setRNGSeed(0)  # GrabCut starts from k-means: the same prompt must give the same mask
    try:
        cv2.grabCut(
            small, labels, None, models[0], models[1], _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK
        )  # type: ignore[call-overload]
    except cv2.error:
        return np.zeros((height, width), np.bool_)
    inside = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    soft = cv2.resize(inside.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray((soft > 0.5) & (hints != cv2.GC_BGD), np.bool_)
