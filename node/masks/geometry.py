"""Boxes and overlap of masks, and masks between the frame's size and the work size."""

from __future__ import annotations

import cv2
import numpy as np

from ureca.datatypes import Frame, Mask
from ureca.errors import RegionError
from ureca.node.masks.color_histogram import F32

Box = tuple[int, int, int, int]


def shrunk(mask: Mask, size: tuple[int, int]) -> F32:
    """`mask` bool [H, W], not empty, as a soft mask f32 of `size` (height, width) that has at least
    one pixel inside: what is thinner than a work pixel keeps what it touches.
    """
    height, width = size
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    small = np.asarray(soft, np.float32)
    return small if (small > 0.5).any() else np.asarray(small > 0, np.float32)


def full_size(soft: F32, frame: Frame) -> Mask:
    """A soft mask f32 [h, w] as bool of the frame's size; may be empty."""
    size = (frame.width, frame.height)
    return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR) > 0.5, np.bool_)


def clip_box(box: tuple[float, float, float, float], height: int, width: int) -> Box:
    """`box` (x0, y0, x1, y1) rounded outwards and cut to the frame. Raises `RegionError` when
    nothing is left.
    """
    x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    if x0 >= x1 or y0 >= y1:
        raise RegionError(f"the box {list(box)} lies outside the frame of {width}x{height}")
    return x0, y0, x1, y1


def box_of(mask: Mask) -> Box:
    """The tight box x0, y0, x1, y1 (exclusive ends) of a mask with at least one pixel."""
    x0, y0, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x0, y0, x0 + width, y0 + height


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union of two masks; 0 when both are empty."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 0.0
