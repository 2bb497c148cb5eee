"""Candidates that a segmenter cuts out of the whole picture: a grid of points, each thing once."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from ureca.datatypes import Image
from ureca.models.evaluation.res.answers import mask_iou
from ureca.models.runtime.grounding import Candidate
from ureca.models.runtime.segmentation.base import MaskPrediction, Segmenter, SegmenterPrompt
from ureca.models.runtime.segmentation.sam2 import Sam2
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.weights import cached

SegmenterName = Literal["sam2-hiera-tiny", "scripted"]
SEGMENTERS: Final[tuple[SegmenterName, ...]] = get_args(SegmenterName)
MOST: Final = 64
"""Candidates of one picture: what a node asks for."""
_GRID = 8
_LEAST_SCORE, _LEAST_STABILITY = 0.6, 0.7
_LEAST_SHARE, _MOST_SHARE = 0.001, 0.95
_SAME_IOU = 0.8
"""Two masks that overlap more are one; parts and their things are kept apart."""


def open_segmenter(
    name: SegmenterName, *, folder: Path | None = None, threads: int = 1
) -> Segmenter:
    """The segmenter of that name. Raises `WeightsError` when its files are not there."""
    if name == "scripted":
        return ScriptedSegmenter()
    return Sam2(folder or cached(Sam2.name), threads=threads)


def cut_candidates(segmenter: Segmenter, image: Image) -> list[Candidate]:
    """At most 64 masks of a picture u8 [H, W, 3], the best scores first."""
    size = image.shape[0], image.shape[1]
    answers = segmenter.segment(segmenter.encode(image), _grid(size))
    cuts = sorted((cut for row in answers for cut in row if _sure(cut)), key=lambda c: -c.score)
    kept: list[Candidate] = []
    for cut in cuts:
        mask = cut.mask(size)
        share = np.count_nonzero(mask) / mask.size
        if not _LEAST_SHARE <= share <= _MOST_SHARE:
            continue
        if all(mask_iou(mask, one.mask) < _SAME_IOU for one in kept):
            kept.append(Candidate(mask, score=cut.score))
        if len(kept) == MOST:
            break
    return kept


def _grid(size: tuple[int, int]) -> list[SegmenterPrompt]:
    ys, xs = ((np.arange(_GRID) + 0.5) * side / _GRID for side in size)
    return [SegmenterPrompt(points_xy_px=((float(x), float(y)),)) for y in ys for x in xs]


def _sure(cut: MaskPrediction) -> bool:
    return cut.score >= _LEAST_SCORE and cut.stability >= _LEAST_STABILITY
