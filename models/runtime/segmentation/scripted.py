"""A segmenter without weights, for tests and for trying the node: a thing is what has one colour.

It cuts out the connected pixels of the colour under a point, or of the commonest colour in the
middle of a box; its features are the colours. On pictures such as `testing.SyntheticSource`'s its
answers are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ureca.datatypes import Image, Mask
from ureca.errors import EngineError
from ureca.models.runtime.segmentation.base import F32, MaskPrediction, SegmenterPrompt

_CELLS_PX = 4
_TOLERANCE = 12


class ScriptedSegmenter:
    """A `Segmenter` by rule. `failing` pictures in a row, counted from the first, raise
    `EngineError`; `encoded` counts them all.
    """

    name = "scripted"

    def __init__(self, *, failing: int = 0) -> None:
        self.encoded = 0
        self._failing = failing

    def encode(self, image: Image) -> Image:
        """See `Segmenter`."""
        self.encoded += 1
        if self.encoded <= self._failing:
            raise EngineError(f"scripted failure on picture {self.encoded}")
        return image

    def features(self, encoded: Image) -> F32:
        """See `Segmenter`: the mean colour of each cell of 4 x 4 pixels."""
        size = max(1, encoded.shape[1] // _CELLS_PX), max(1, encoded.shape[0] // _CELLS_PX)
        small = cv2.resize(encoded, size, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(np.asarray(small, np.float32).transpose(2, 0, 1))

    def segment(
        self, encoded: Image, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """See `Segmenter`; one answer to each prompt."""
        return [(_cut(_of_one_colour(encoded, _start(prompt, encoded))),) for prompt in prompts]

    def stop(self) -> None:
        """See `Segmenter`: its calls are short."""


def _start(prompt: SegmenterPrompt, image: Image) -> tuple[int, int]:
    height, width = image.shape[:2]
    if prompt.points_xy_px:
        x, y = prompt.points_xy_px[0]
    elif prompt.box_xyxy_px is not None:
        x0, y0, x1, y1 = prompt.box_xyxy_px
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
    else:
        assert prompt.soft is not None  # a prompt has one of the three
        x0, y0, x1, y1 = _box_of(np.asarray(prompt.soft > 0.5, np.bool_))
        scale = width / prompt.soft.shape[1]
        x, y = (x0 + x1) / 2 * scale, (y0 + y1) / 2 * scale
    return min(width - 1, max(0, int(x))), min(height - 1, max(0, int(y)))


def _box_of(mask: Mask) -> tuple[int, int, int, int]:
    """The tight box x0, y0, x1, y1 (exclusive ends) of a mask with at least one pixel."""
    x0, y0, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x0, y0, x0 + width, y0 + height


def _of_one_colour(image: Image, start: tuple[int, int]) -> Mask:
    x, y = start
    apart = np.abs(image.astype(np.int16) - image[y, x].astype(np.int16)).max(axis=2)
    _, parts = cv2.connectedComponents((apart <= _TOLERANCE).astype(np.uint8))
    return np.asarray(parts == parts[y, x], np.bool_)


def _cut(mask: Mask) -> MaskPrediction:
    return MaskPrediction(np.where(mask, 8.0, -8.0).astype(np.float32), 0.95)
