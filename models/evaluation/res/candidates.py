"""Candidates that a segmenter cuts out of the whole picture: each thing once, and parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from ureca.datatypes import Image
from ureca.models.evaluation.res.answers import mask_iou
from ureca.models.runtime.grounding import Candidate
from ureca.models.runtime.segmentation.base import (
    EncodedImage,
    MaskPrediction,
    Segmenter,
    SegmenterPrompt,
    supports_candidates,
    supports_everything,
)
from ureca.models.runtime.segmentation.bundled import open_mask_head
from ureca.models.runtime.segmentation.panoptic.find_parts import RULES_FOR_TEXTS, choose_parts
from ureca.models.runtime.segmentation.sam2 import Sam2
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.weights import cached

SegmenterName = Literal["nano", "sam2-hiera-tiny", "scripted"]
SEGMENTERS: Final[tuple[SegmenterName, ...]] = get_args(SegmenterName)
MOST: Final = 64
"""Candidates of one picture: what a node asks for."""
_GRID = 8
_LEAST: Final[Mapping[str, tuple[float, float]]] = {"nano": (0.3, 0.5)}
_LEAST_OF_OTHERS = (0.6, 0.7)
"""Score and stability that a mask must reach, by the segmenter's name."""
_LEAST_SHARE, _MOST_SHARE = 0.001, 0.95
_SAME_IOU = 0.8
"""Two masks that overlap more are one; parts and their things are kept apart."""


def open_segmenter(
    name: SegmenterName, *, bundle: Path, folder: Path | None = None, threads: int = 1
) -> Segmenter:
    """The segmenter of that name; `nano` is the mask head of the bundle, or of that in `folder`.
    Raises `WeightsError` when its files are not there.
    """
    if name == "nano":
        return open_mask_head(folder or bundle, threads=threads)
    if name == "scripted":
        return ScriptedSegmenter()
    return Sam2(folder or cached(Sam2.name), threads=threads)


def cut_candidates(segmenter: Segmenter, image: Image) -> list[Candidate]:
    """At most 64 masks of a picture u8 [H, W, 3], the best scores first, then parts of these where
    the segmenter gives all of its masks.
    """
    size, encoded = (image.shape[0], image.shape[1]), segmenter.encode(image)
    cuts = [cut for cut in _ask(segmenter, encoded, size) if _is_sure(cut, segmenter)]
    kept: list[Candidate] = []
    _keep(kept, sorted(cuts, key=lambda cut: -cut.score), size)
    if supports_candidates(segmenter):
        things = [one.mask for one in kept]
        parts = choose_parts(segmenter.candidates(encoded), things, rules=RULES_FOR_TEXTS)
        _keep(kept, [one for row in parts for one in row], size)
    return kept


def _ask(
    segmenter: Segmenter, encoded: EncodedImage, size: tuple[int, int]
) -> list[MaskPrediction]:
    if supports_everything(segmenter):
        return segmenter.everything(encoded)
    return [cut for row in segmenter.segment(encoded, _grid(size)) for cut in row]


def _keep(kept: list[Candidate], cuts: Iterable[MaskPrediction], size: tuple[int, int]) -> None:
    """Add those that are none of `kept`, as long as there is room."""
    for cut in cuts:
        mask = cut.mask(size)
        share = np.count_nonzero(mask) / mask.size
        if len(kept) == MOST or not _LEAST_SHARE <= share <= _MOST_SHARE:
            continue
        if all(mask_iou(mask, one.mask) < _SAME_IOU for one in kept):
            kept.append(Candidate(mask, score=cut.score))


def _grid(size: tuple[int, int]) -> list[SegmenterPrompt]:
    ys, xs = ((np.arange(_GRID) + 0.5) * side / _GRID for side in size)
    return [SegmenterPrompt(points_xy_px=((float(x), float(y)),)) for y in ys for x in xs]


def _is_sure(cut: MaskPrediction, segmenter: Segmenter) -> bool:
    score, stability = _LEAST.get(segmenter.name, _LEAST_OF_OTHERS)
    return cut.score >= score and cut.stability >= stability
