"""Parts of segments, when they are asked for: the level below things in the tree of masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from ureca.datatypes import Mask
from ureca.models.runtime.segmentation.base import (
    F32,
    EncodedImage,
    EverythingSegmenter,
    supports_candidates,
)
from ureca.models.runtime.segmentation.panoptic.segments import U8, PanopticMap, PanopticSegment


@dataclass(frozen=True, slots=True)
class PartRules:
    """When a mask is a part of a segment: `inside` of it lies there, it is `smallest` to `largest`
    of the segment, and `left_over` of it is not yet another part's. `least_worth` (score times
    stability) was chosen on 16 rendered views.
    """

    inside: float = 0.8
    smallest: float = 0.03
    largest: float = 0.75
    left_over: float = 0.6
    least_worth: float = 0.15
    most: int = 8
    """Of one segment."""


RULES = PartRules()
_LAST_NUMBER = 255


@dataclass(frozen=True, slots=True)
class PartMap:
    """Parts as a map of their own, with the segment of each by its number. What is no part of
    anything is the rest.
    """

    found: PanopticMap
    parents: Mapping[int, int]


def find_parts(
    segmenter: EverythingSegmenter,
    encoded: EncodedImage,
    whole: PanopticMap,
    *,
    of: Collection[int] | None = None,
    rules: PartRules = RULES,
) -> PartMap:
    """The parts of segments of a map: of those whose numbers are given, else of all things.

    A part is a mask that the segmenter finds inside the segment, of all its masks where it gives
    them; the surest come first.
    """
    if of is None:
        of = [one.number for one in whole.segments if one.kind == "thing"]
    if supports_candidates(segmenter):
        predictions = segmenter.candidates(encoded)
    else:
        predictions = segmenter.everything(encoded)
    ids = np.zeros(whole.ids.shape, np.uint8)
    parts: list[PanopticSegment] = []
    parents: dict[int, int] = {}
    if not predictions:
        return PartMap(PanopticMap(ids, ()), {})
    logits = np.stack([one.logits for one in predictions])
    worth = np.array([one.score * one.stability for one in predictions], np.float32)
    for parent in of:
        segment = whole.mask(parent)
        for row in _choose_rows(logits, worth, segment, rules):
            pixels = _enlarge(logits[row], ids.shape) & segment & (ids == 0)
            if len(parts) < _LAST_NUMBER and pixels.any():
                parts.append(PanopticSegment(len(parts) + 1, "thing", float(worth[row])))
                parents[len(parts)] = parent
                ids[pixels] = len(parts)
    return PartMap(PanopticMap(ids, tuple(parts)), parents)


def _choose_rows(logits: F32, worth: F32, segment: Mask, rules: PartRules) -> list[int]:
    """Rows of the masks that are parts of a segment bool [H, W], the surest first."""
    masks = np.asarray(logits > 0)
    size = (masks.shape[2], masks.shape[1])
    there = cv2.resize(segment.view(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    areas, area = masks.sum((1, 2)), max(1, int(there.sum()))
    inside = (masks & there).sum((1, 2))
    fits = (inside >= rules.inside * areas) & (worth >= rules.least_worth) & (inside > 0)
    fits &= (inside >= rules.smallest * area) & (inside <= rules.largest * area)
    free = there.copy()
    chosen: list[int] = []
    for row in map(int, np.argsort(-worth, kind="stable")):
        if not fits[row] or len(chosen) >= rules.most:
            continue
        if np.count_nonzero(masks[row] & free) >= rules.left_over * areas[row]:
            chosen.append(row)
            free &= ~masks[row]
    return chosen


def _enlarge(logits: F32, shape: tuple[int, ...]) -> U8:
    large = cv2.resize(logits, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large > 0)
