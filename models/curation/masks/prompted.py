"""Any segmenter as a teacher: boxes for the regions, boxes and a grid of points for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ureca.datatypes import Image
from ureca.models.curation.masks.agreement import compute_mask_iou
from ureca.models.curation.masks.teachers import FoundMask, TeacherMask
from ureca.models.data.regions import RegionRecord
from ureca.models.runtime.segmentation.base import MaskPrediction, Segmenter, SegmenterPrompt

Box = tuple[float, float, float, float]
Detect = Callable[[Image], list[tuple[Box, str]]]
"""Boxes xyxy in pixels of the picture, with names, surest first."""

_GRID = 8
_OVERCONFIDENT = 0.1
"""SAM 2's own score against its IoU: .86 said, .757 true (78 regions of COCO)."""
_STABLE = 0.9
_SAME = 0.7
_BOX_MARGIN = 0.06


class PromptedTeacher:
    """A `MaskTeacher` from a `Segmenter` such as SAM 2."""

    def __init__(
        self, segmenter: Segmenter, *, name: str, everything: bool, detect: Detect | None = None
    ) -> None:
        """`everything`: find more by a grid of points, and by the boxes of `detect`."""
        self.name, self._segmenter = name, segmenter
        self._everything, self._detect = everything, detect

    def outline(self, image: Image, regions: Sequence[RegionRecord]) -> list[TeacherMask | None]:
        """See `MaskTeacher`: the surest answer to each box, cut at the box and 6 %."""
        if not regions:
            return []
        boxes = [get_corners(region) for region in regions]
        encoded = self._segmenter.encode(image)
        prompts = [SegmenterPrompt(box_xyxy_px=box) for box in boxes]
        answers = self._segmenter.segment(encoded, prompts)
        return [
            self._make_mask(max(row, key=_get_score), image, box)
            for row, box in zip(answers, boxes, strict=True)
        ]

    def discover(self, image: Image, regions: Sequence[RegionRecord]) -> list[FoundMask]:
        """See `MaskTeacher`: stable masks, none of which repeats another."""
        if not self._everything:
            return []
        encoded = self._segmenter.encode(image)
        named = self._detect(image) if self._detect is not None else []
        steps = (np.arange(_GRID) + 0.5) / _GRID
        height, width = image.shape[:2]
        points = [(float(x * width), float(y * height)) for y in steps for x in steps]
        prompts = [SegmenterPrompt(box_xyxy_px=box) for box, _ in named]
        prompts += [SegmenterPrompt(points_xy_px=(point,)) for point in points]
        names = [name for _, name in named] + [""] * len(points)
        rows = zip(self._segmenter.segment(encoded, prompts), names, strict=True)
        found: list[FoundMask] = []
        for answer, name in sorted(
            ((answer, name) for row, name in rows for answer in row),
            key=lambda a: -_get_score(a[0]),
        ):
            mask = self._make_mask(answer, image, None)
            new = all(compute_mask_iou(mask.mask, other.answer.mask) < _SAME for other in found)
            if answer.stability >= _STABLE and mask.mask.any() and new:
                found.append(FoundMask(mask, category=name))
        return found

    def _make_mask(self, answer: MaskPrediction, image: Image, box: Box | None) -> TeacherMask:
        mask = answer.mask((image.shape[0], image.shape[1]))
        if box is not None:
            x0, y0, x1, y1 = box
            across, down = (x1 - x0) * _BOX_MARGIN, (y1 - y0) * _BOX_MARGIN
            kept = np.zeros_like(mask)
            rows = slice(max(0, round(y0 - down)), round(y1 + down) + 1)
            columns = slice(max(0, round(x0 - across)), round(x1 + across) + 1)
            kept[rows, columns] = mask[rows, columns]
            mask = kept
        return TeacherMask(mask, max(0.0, answer.score - _OVERCONFIDENT), self.name)


def _get_score(answer: MaskPrediction) -> float:
    return answer.score


def get_corners(region: RegionRecord) -> Box:
    """The region's box xyxy in pixels of the picture."""
    x, y, width, height = region.box_xywh_px
    return x, y, x + width, y + height
