"""What was found in one image without a prompt, and answers to prompts from it.

Such a network cannot be asked: a prompt chooses among what it found.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ureca.datatypes import Image
from ureca.models.runtime.segmentation.base import F32, MaskPrediction, PointXy, SegmenterPrompt
from ureca.models.runtime.segmentation.detectors.layouts import OUTSIDE, compute_box_ious

FEATURE_SIDE = 64
_CONTEXT_CELLS = 2.0
_MOST_ANSWERS = 3
_SURE_IOU, _LEAST_IOU = 0.5, 0.1


@dataclass(frozen=True, slots=True)
class DetectedImage:
    """An image of `size` (height, width): its predictions, best first, their boxes f32 [N, 4] xyxy
    in pixels of the image, and `compute_image_features` of it.
    """

    size: tuple[int, int]
    predictions: tuple[MaskPrediction, ...]
    boxes: F32
    features: F32


def answer_prompt(found: DetectedImage, prompt: SegmenterPrompt) -> tuple[MaskPrediction, ...]:
    """The detections that a prompt means, at least one answer.

    A click: all that hold the points and none of the `not` points, the smallest first. A box: those
    with the best IoU, best first (of those that hold the points, where some do); below IoU .5 the
    score falls with it. A mask: the same with the IoU of masks. Where nothing fits: one empty mask
    with score 0.
    """
    rows = [
        row
        for row, one in enumerate(found.predictions)
        if not any(_holds(one, point, found.size) for point in prompt.not_points_xy_px)
    ]
    holding = [
        row
        for row in rows
        if all(_holds(found.predictions[row], point, found.size) for point in prompt.points_xy_px)
    ]
    if prompt.box_xyxy_px is not None:
        box = np.array(prompt.box_xyxy_px, np.float32)
        ious = compute_box_ious(box, found.boxes)
        answers = _rank(found, holding or rows, ious)
    elif prompt.points_xy_px:
        holding.sort(key=lambda row: _compute_share(found.predictions[row]))
        answers = [found.predictions[row] for row in holding[:_MOST_ANSWERS]]
    else:
        assert prompt.soft is not None  # a prompt has one of the three
        ious = np.array([_compute_iou(one, prompt.soft) for one in found.predictions], np.float32)
        answers = _rank(found, rows, ious)
    return tuple(answers) or (make_empty_prediction(),)


def make_empty_prediction() -> MaskPrediction:
    """An answer that says: nothing there."""
    return MaskPrediction(np.full((2, 2), OUTSIDE, np.float32), 0.0)


def compute_image_features(image: Image) -> F32:
    """Colours and edges of an image u8 [H, W, 3] on a grid of at most 64 cells a side.

    f32 [8, h, w]: Lab of the cell, Lab of its surroundings, strength of edges across and down. They
    tell things of different colours or patterns apart and say nothing of meaning; they serve the
    memory of regions where the network gives no features. Deterministic.
    """
    height, width = image.shape[:2]
    scale = FEATURE_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fine = cv2.resize(image, (4 * size[0], 4 * size[1]), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(np.asarray(fine, np.float32) / 255, cv2.COLOR_RGB2LAB) / 100
    edges = [np.abs(cv2.Sobel(lab[:, :, 0], cv2.CV_32F, *step)) for step in ((1, 0), (0, 1))]
    small = cv2.resize(lab, size, interpolation=cv2.INTER_AREA)
    around = cv2.GaussianBlur(small, (0, 0), _CONTEXT_CELLS)
    pooled = [cv2.resize(one, size, interpolation=cv2.INTER_AREA)[None] for one in edges]
    colours = [np.asarray(one, np.float32).transpose(2, 0, 1) for one in (small, around)]
    return np.ascontiguousarray(np.concatenate((*colours, *pooled)), np.float32)


def _rank(found: DetectedImage, rows: list[int], ious: F32) -> list[MaskPrediction]:
    order = sorted((row for row in rows if ious[row] >= _LEAST_IOU), key=lambda row: -ious[row])
    return [_weigh(found.predictions[row], float(ious[row])) for row in order[:_MOST_ANSWERS]]


def _weigh(one: MaskPrediction, iou: float) -> MaskPrediction:
    return MaskPrediction(one.logits, one.score * min(1.0, iou / _SURE_IOU), one.label)


def _holds(one: MaskPrediction, point: PointXy, size: tuple[int, int]) -> bool:
    height, width = one.logits.shape
    row, column = int(point[1] * height // size[0]), int(point[0] * width // size[1])
    is_inside = 0 <= row < height and 0 <= column < width
    return is_inside and bool(one.logits[row, column] > 0)


def _compute_share(one: MaskPrediction) -> float:
    return float(np.count_nonzero(one.logits > 0) / one.logits.size)


def _compute_iou(one: MaskPrediction, soft: F32) -> float:
    height, width = one.logits.shape
    wanted = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    inside = one.logits > 0
    either = np.count_nonzero(inside | wanted)
    return float(np.count_nonzero(inside & wanted) / either) if either else 0.0
