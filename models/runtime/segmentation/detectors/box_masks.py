"""Masks of the boxes of a detector that makes none."""

from __future__ import annotations

import cv2
import numpy as np

from ureca.datatypes import Image, Mask
from ureca.models.runtime.segmentation.base import F32, Segmenter, SegmenterPrompt
from ureca.models.runtime.segmentation.detectors.layouts import OUTSIDE
from ureca.models.runtime.segmentation.detectors.placement import MOST_MASK_SIDE_PX
from ureca.models.runtime.segmentation.tidy import tidy

_MARGIN = 0.2
"""GrabCut sees this share of a box's sides around it: what is no part of the thing."""
_LIKELY = 0.6
_LEAST_SHARE, _MOST_SHARE = 0.25, 0.98
"""A result that fills less or more of its box is no outline: the box stays as it is."""


def segment_boxes(segmenter: Segmenter, image: Image, boxes: F32) -> list[F32]:
    """Logits f32 [h, w] over the image for each box [N, 4] xyxy: the segmenter's surest answer, and
    the filled box where that is empty.
    """
    if not len(boxes):
        return []
    corners = boxes.tolist()
    prompts = [SegmenterPrompt(box_xyxy_px=(x0, y0, x1, y1)) for x0, y0, x1, y1 in corners]
    answers = segmenter.segment(segmenter.encode(image), prompts)
    found = [max(answer, key=lambda one: one.score).logits for answer in answers]
    for row, logits in enumerate(found):
        if not (logits > 0).any():
            filled = _make_logits(_fill_box(image, boxes[row], use_grabcut=False))
            height, width = logits.shape
            resized = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
            found[row] = np.asarray(resized, np.float32)
    return found


def fill_boxes(image: Image, boxes: F32, *, use_grabcut: bool) -> list[F32]:
    """The same without a segmenter: the whole box, which is honest about what is known, or by
    GrabCut what differs in colour from the surroundings of the box, and the whole box where that
    gives no outline.
    """
    return [_make_logits(_fill_box(image, box, use_grabcut=use_grabcut)) for box in boxes]


def _fill_box(image: Image, box: F32, *, use_grabcut: bool) -> Mask:
    height, width = image.shape[:2]
    x0, y0 = min(width - 1, int(box[0])), min(height - 1, int(box[1]))
    x1, y1 = max(x0 + 1, round(float(box[2]))), max(y0 + 1, round(float(box[3])))
    mask = np.zeros((height, width), np.bool_)
    mask[y0:y1, x0:x1] = True
    if not use_grabcut:
        return mask
    across, down = round((x1 - x0) * _MARGIN) + 1, round((y1 - y0) * _MARGIN) + 1
    part = (
        slice(max(0, y0 - down), min(height, y1 + down)),
        slice(max(0, x0 - across), min(width, x1 + across)),
    )
    soft = np.where(mask[part], _LIKELY, 0.0).astype(np.float32)
    found = tidy(np.ascontiguousarray(image[part]), soft)
    share = np.count_nonzero(found) / np.count_nonzero(mask[part])
    if _LEAST_SHARE <= share <= _MOST_SHARE:
        mask[part] = found
    return mask


def _make_logits(mask: Mask) -> F32:
    height, width = mask.shape
    shrink = min(1.0, MOST_MASK_SIDE_PX / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    shares = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray((1 - 2 * shares) * OUTSIDE, np.float32)
