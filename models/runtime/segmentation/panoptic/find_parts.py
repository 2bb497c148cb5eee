"""Parts of segments, when they are asked for: the level below things in the tree of masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.models.runtime.segmentation.base import (
    F32,
    EncodedImage,
    EverythingSegmenter,
    MaskPrediction,
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
RULES_FOR_TEXTS = PartRules(least_worth=0.04, most=16)
"""Where a text decides which of them is meant."""
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
    predictions = list_all_masks(segmenter, encoded)
    ids = np.zeros(whole.ids.shape, np.uint8)
    parts: list[PanopticSegment] = []
    parents: dict[int, int] = {}
    wholes = [whole.mask(parent) for parent in of]
    for parent, segment, rows in zip(
        of, wholes, choose_parts(predictions, wholes, rules=rules), strict=True
    ):
        for one in rows:
            pixels = _enlarge(one.logits, ids.shape) & segment & (ids == 0)
            if len(parts) < _LAST_NUMBER and pixels.any():
                score = float(np.float32(one.score * one.stability))
                parts.append(PanopticSegment(len(parts) + 1, "thing", score))
                parents[len(parts)] = parent
                ids[pixels] = len(parts)
    return PartMap(PanopticMap(ids, tuple(parts)), parents)


def list_all_masks(segmenter: EverythingSegmenter, encoded: EncodedImage) -> list[MaskPrediction]:
    """All masks that a segmenter thinks of, where it gives them; else those of everything."""
    if supports_candidates(segmenter):
        return segmenter.candidates(encoded)
    return segmenter.everything(encoded)


def choose_parts(
    predictions: Sequence[MaskPrediction], wholes: Sequence[Mask], *, rules: PartRules = RULES
) -> list[list[MaskPrediction]]:
    """For each of the masks `wholes`, bool of any size, the predictions that are parts of it, the
    surest first.
    """
    if not predictions or not wholes:
        return [[] for _ in wholes]
    masks = np.stack([one.logits > 0 for one in predictions])
    worth = np.array([one.score * one.stability for one in predictions], np.float32)
    size = (masks.shape[2], masks.shape[1])
    there = np.stack(
        [cv2.resize(one.view(np.uint8), size, interpolation=cv2.INTER_AREA) > 0 for one in wholes]
    )
    flat, segments = (m.reshape(len(m), -1).astype(np.float32) for m in (masks, there))
    inside, areas = flat @ segments.T, flat.sum(1)[:, None]
    share = inside / np.maximum(segments.sum(1), 1)
    fits = (inside >= rules.inside * areas) & (inside > 0) & (worth >= rules.least_worth)[:, None]
    fits &= (share >= rules.smallest) & (share <= rules.largest)
    return [
        [predictions[row] for row in _choose_rows(masks, worth, there[n], fits[:, n], rules)]
        for n in range(len(wholes))
    ]


def _choose_rows(
    masks: npt.NDArray[np.bool_],
    worth: F32,
    segment: Mask,
    fits: npt.NDArray[np.bool_],
    rules: PartRules,
) -> list[int]:
    free, chosen = segment.copy(), list[int]()
    rows = np.flatnonzero(fits)
    for row in map(int, rows[np.argsort(-worth[rows], kind="stable")]):
        if len(chosen) == rules.most:
            break
        left = np.count_nonzero(masks[row] & free)
        if left >= rules.left_over * np.count_nonzero(masks[row]):
            chosen.append(row)
            free &= ~masks[row]
    return chosen


def _enlarge(logits: F32, shape: tuple[int, ...]) -> U8:
    large = cv2.resize(logits, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large > 0)
