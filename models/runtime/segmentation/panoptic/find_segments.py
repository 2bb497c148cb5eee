"""The segments of a picture, by any segmenter."""

from __future__ import annotations

import numpy as np

from ureca.models.runtime.segmentation.base import (
    F32,
    EncodedImage,
    EverythingSegmenter,
    MaskPrediction,
    supports_panoptic,
)
from ureca.models.runtime.segmentation.panoptic.segments import (
    PanopticMap,
    SegmentKind,
    make_panoptic_map,
)
from ureca.models.runtime.segmentation.panoptic.selection import choose_segments, paint_segments

_LARGEST_PX = 640
_STUFF_SIDES = 3
"""A segment at so many sides of the picture is stuff, where nothing else tells."""


def find_segments(
    segmenter: EverythingSegmenter, encoded: EncodedImage, size: tuple[int, int]
) -> PanopticMap:
    """The segments of an image of `size` (height, width), at that size or, of a larger image, at
    640 px of its longer side. A segmenter that only says everything is asked for that.
    """
    scale = min(1.0, _LARGEST_PX / max(size))
    size = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    if supports_panoptic(segmenter):
        return segmenter.panoptic(encoded, size)
    return arrange_predictions(segmenter.everything(encoded), size)


def arrange_predictions(found: list[MaskPrediction], size: tuple[int, int]) -> PanopticMap:
    """Segments of `size` from masks that may overlap: the surest first."""
    if not found:
        return PanopticMap(np.zeros(size, np.uint8), ())
    logits = np.stack([one.logits for one in found])
    worth = np.array([one.score * one.stability for one in found], np.float32)
    rows = choose_segments(logits, worth)
    kinds = [_guess_kind(logits[row]) for row in rows]
    ids = paint_segments(logits[rows], size)
    return make_panoptic_map(
        ids, [(kind, float(worth[row])) for kind, row in zip(kinds, rows, strict=True)]
    )


def _guess_kind(logits: F32) -> SegmentKind:
    inside = logits > 0
    sides = inside[0].any(), inside[-1].any(), inside[:, 0].any(), inside[:, -1].any()
    return "stuff" if sum(map(bool, sides)) >= _STUFF_SIDES else "thing"
