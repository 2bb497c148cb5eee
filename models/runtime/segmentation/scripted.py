"""A segmenter without weights, for tests and for trying the node: an object is a connected area of
one colour.

It segments the connected pixels of the colour under a point, or of the most frequent colour in the
middle of a box. Everything is all such areas, named by their colour. Its features are the colours.
On images such as those of `testing.SyntheticSource` its results are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ureca.datatypes import Image, Mask
from ureca.errors import EngineError
from ureca.models.runtime.segmentation.base import F32, MaskPrediction, SegmenterPrompt
from ureca.testing import COLOURS

_CELLS_PX = 4
_TOLERANCE = 12
_LOOKS, _MOST = 24, 64
"""Everything: places per side that are looked at, and areas at most."""
_COLOURS = {**COLOURS, "grey": (128, 128, 128)}
_REACH = ((_TOLERANCE,) * 3, (_TOLERANCE,) * 3)
_FLAGS = 8 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (255 << 8)


class ScriptedSegmenter:
    """A `Segmenter` by rule. The first `failing` images raise `EngineError`; `encoded` counts all
    images.
    """

    name = "scripted"
    class_names = tuple(_COLOURS)

    def __init__(self, *, failing: int = 0) -> None:
        self.encoded = 0
        self._failing = failing

    def encode(self, image: Image) -> Image:
        """See `Segmenter`."""
        self.encoded += 1
        if self.encoded <= self._failing:
            raise EngineError(f"scripted failure on image {self.encoded}")
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
        return [
            (_make_prediction(_fill_colour(encoded, _find_start(prompt, encoded))),)
            for prompt in prompts
        ]

    def everything(self, encoded: Image) -> list[MaskPrediction]:
        """See `EverythingSegmenter`: areas of one colour, the largest first; at most 64."""
        height, width = encoded.shape[:2]
        taken = np.zeros((height + 2, width + 2), np.uint8)  # floodFill wants a border
        image, found = encoded.copy(), list[Mask]()
        for y in np.linspace(0, height - 1, _LOOKS).round().astype(int):
            for x in np.linspace(0, width - 1, _LOOKS).round().astype(int):
                if taken[y + 1, x + 1] or len(found) == _MOST:
                    continue
                before = taken.copy()
                cv2.floodFill(image, taken, (int(x), int(y)), 0, *_REACH, _FLAGS)
                found.append(np.asarray(taken != before, np.bool_)[1:-1, 1:-1])
        found.sort(key=np.count_nonzero, reverse=True)
        return [_make_prediction(mask, _name_colour(encoded[mask])) for mask in found]

    def stop(self) -> None:
        """See `Segmenter`: its calls are short."""


def _find_start(prompt: SegmenterPrompt, image: Image) -> tuple[int, int]:
    height, width = image.shape[:2]
    if prompt.points_xy_px:
        x, y = prompt.points_xy_px[0]
    elif prompt.box_xyxy_px is not None:
        x0, y0, x1, y1 = prompt.box_xyxy_px
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
    else:
        assert prompt.soft is not None  # a prompt has one of the three
        x0, y0, x1, y1 = _compute_box(np.asarray(prompt.soft > 0.5, np.bool_))
        scale = width / prompt.soft.shape[1]
        x, y = (x0 + x1) / 2 * scale, (y0 + y1) / 2 * scale
    return min(width - 1, max(0, int(x))), min(height - 1, max(0, int(y)))


def _compute_box(mask: Mask) -> tuple[int, int, int, int]:
    """The tight box x0, y0, x1, y1 (exclusive ends) of a mask with at least one pixel."""
    x0, y0, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x0, y0, x0 + width, y0 + height


def _fill_colour(image: Image, start: tuple[int, int]) -> Mask:
    x, y = start
    apart = np.abs(image.astype(np.int16) - image[y, x].astype(np.int16)).max(axis=2)
    _, parts = cv2.connectedComponents((apart <= _TOLERANCE).astype(np.uint8))
    return np.asarray(parts == parts[y, x], np.bool_)


def _name_colour(pixels: Image) -> str:
    """The colour that the mean of pixels u8 [n, 3] is nearest to."""
    mean = pixels.mean(axis=0)
    return min(_COLOURS, key=lambda name: float(np.abs(mean - _COLOURS[name]).sum()))


def _make_prediction(mask: Mask, label: str | None = None) -> MaskPrediction:
    return MaskPrediction(np.where(mask, 8.0, -8.0).astype(np.float32), 0.95, label)
