"""Cuts everything out of a picture: a grid of points, the sure answers, each thing once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ureca.datatypes import Mask
from ureca.models.runtime.segmentation.base import (
    EncodedImage,
    MaskPrediction,
    Segmenter,
    SegmenterPrompt,
)
from ureca.node.config import SegmenterConfig
from ureca.node.masks.geometry import iou


def generate_masks(
    segmenter: Segmenter,
    encoded: EncodedImage,
    size: tuple[int, int],
    config: SegmenterConfig,
    *,
    known: Sequence[Mask] = (),
) -> list[tuple[MaskPrediction, Mask]]:
    """The things of an image of `size` (height, width) on a grid of points that are not in `known`,
    best score first, with their masks bool of that size.
    """
    answers = segmenter.segment(encoded, grid(size, config.grid))
    cuts = [cut for row in answers for cut in row if _is_sure(cut, config)]
    cuts.sort(key=lambda cut: cut.score, reverse=True)
    pixels = size[0] * size[1]
    kept: list[tuple[MaskPrediction, Mask]] = []
    for cut in cuts:
        mask = cut.mask(size)
        share = np.count_nonzero(mask) / pixels
        if not config.min_share <= share <= config.max_share:
            continue
        if all(iou(mask, other) < config.max_overlap for other in (*known, *(m for _, m in kept))):
            kept.append((cut, mask))
    return kept


def grid(size: tuple[int, int], points: int) -> list[SegmenterPrompt]:
    """`points` x `points` prompts in the middles of equal cells of a picture."""
    height, width = size
    ys, xs = ((np.arange(points) + 0.5) * side / points for side in (height, width))
    return [SegmenterPrompt(points_xy_px=((float(x), float(y)),)) for y in ys for x in xs]


def _is_sure(cut: MaskPrediction, config: SegmenterConfig) -> bool:
    return cut.score >= config.min_thing_score and cut.stability >= config.min_stability
