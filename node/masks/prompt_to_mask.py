"""Converts a region of a sender or a prompt (mask, box, point) to a mask of the frame.

Masks are used unchanged. Boxes and points become masks by GrabCut at once, which a segmenter
replaces where there is one (`tracking/mask_correction`): a box that GrabCut cannot fill sensibly
stays a filled rectangle, and a point is grown by flood fill over similar colours before GrabCut
tidies it, so a point on a two-coloured object finds one of its colours.
"""

from __future__ import annotations

import cv2
import numpy as np

from ureca.datatypes import Image, Mask, RegionSeed, Rle
from ureca.errors import RegionError
from ureca.node.masks.geometry import Box, clip_box
from ureca.protocol.rle import decode

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
    if seed.box_xyxy_px is not None:
        return _from_box(clip_box(seed.box_xyxy_px, height, width), image)
    assert seed.point_xy_px is not None  # RegionSeed holds exactly one of the three
    x, y = seed.point_xy_px
    if not (0 <= x < width and 0 <= y < height):
        raise RegionError(f"the point ({x:g}, {y:g}) lies outside the frame of {width}x{height}")
    return _from_point(int(x), int(y), image)


def _given(rle: Rle, height: int, width: int) -> Mask:
    if rle.size != (height, width):
        raise RegionError(
            f"the mask's size {list(rle.size)} is not the frame's [{height}, {width}]"
        )
    mask = decode(rle)
    if not mask.any():
        raise RegionError("the mask is empty: a region needs at least one pixel")
    return mask


def _from_box(box: Box, image: Image) -> Mask:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    filled = np.zeros((height, width), np.bool_)
    filled[y0:y1, x0:x1] = True
    hints = np.full((height, width), cv2.GC_BGD, np.uint8)
    hints[y0:y1, x0:x1] = cv2.GC_PR_FGD
    refined = _grabcut(image, hints)
    share = np.count_nonzero(refined) / np.count_nonzero(filled)
    return refined if 0.25 <= share <= 0.98 else filled


def _from_point(x: int, y: int, image: Image) -> Mask:
    height, width = image.shape[:2]
    reach = max(8, int(_POINT_REACH * min(height, width)))
    x0, y0, x1, y1 = clip_box((x - reach, y - reach, x + reach, y + reach), height, width)
    grown = np.zeros((height, width), np.bool_)
    grown[y0:y1, x0:x1] = _flood(image[y0:y1, x0:x1], x - x0, y - y0)
    hints = np.full((height, width), cv2.GC_BGD, np.uint8)
    hints[y0:y1, x0:x1] = cv2.GC_PR_BGD
    hints[grown] = cv2.GC_PR_FGD
    cv2.circle(hints, (x, y), 2, cv2.GC_FGD, -1)
    refined = _grabcut(image, hints)
    mask = refined if 0.5 <= np.count_nonzero(refined) / np.count_nonzero(grown) <= 4 else grown
    return _part_at(mask, x, y)


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
