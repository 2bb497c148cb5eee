"""Masks between the frame's size and the work size."""

from __future__ import annotations

import cv2
import numpy as np

from ureca.datatypes import Frame, Mask
from ureca.node.masks.color_histogram import F32


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
