"""Pictures on the canvas of the mask head, and masks back from it: training, evaluation, the node.

A picture keeps its aspect ratio: it is scaled until it fits, put at the upper left, and the rest is
grey. One scale factor therefore leads from pixels of the picture to pixels of the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image
from ureca.errors import RegionError

F32 = npt.NDArray[np.float32]

GREY = 114
"""Of the canvas where no picture is, in every channel."""
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture of `size` (height, width) lies on a canvas: its pixels times `scale`."""

    size: tuple[int, int]
    canvas: tuple[int, int]
    scale: float

    @property
    def filled(self) -> tuple[int, int]:
        """Height and width of the picture on the canvas, in its pixels."""
        height, width = (max(1, round(side * self.scale)) for side in self.size)
        return min(height, self.canvas[0]), min(width, self.canvas[1])

    def cropped(self, logits: F32) -> F32:
        """Logits f32 [..., h, w] over the canvas -> [..., h', w'] stretched over the picture alone,
        at about the same resolution.
        """
        ratio = logits.shape[-1] / self.canvas[1]
        exact = self.size[0] * self.scale * ratio, self.size[1] * self.scale * ratio
        height, width = (max(1, round(side)) for side in exact)
        if (height, width) == exact:
            return logits[..., :height, :width]
        # Pixel centres: x_canvas = (x + .5) * step - .5.
        step_y, step_x = exact[0] / height, exact[1] / width
        matrix = np.array([[step_x, 0, step_x / 2 - 0.5], [0, step_y, step_y / 2 - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        flat = logits.reshape(-1, *logits.shape[-2:])
        rows = [
            cv2.warpAffine(
                one, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
            for one in flat
        ]
        return np.asarray(rows, np.float32).reshape(*logits.shape[:-2], height, width)


def place(size: tuple[int, int], canvas: tuple[int, int]) -> Placement:
    """Fit a picture of `size` (height, width) into `canvas` (height, width)."""
    if min(size) < 1:
        raise RegionError(f"expected a picture with pixels, got {size[1]}x{size[0]}")
    return Placement(size, canvas, min(canvas[0] / size[0], canvas[1] / size[1]))


def make_canvas_pixels(image: Image, canvas: tuple[int, int]) -> tuple[F32, Placement]:
    """An RGB picture u8 [H, W, 3] as network input f32 [3, canvas height, canvas width]."""
    where = place((image.shape[0], image.shape[1]), canvas)
    height, width = where.filled
    shrinks = where.scale < 1
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    whole = np.full((*canvas, 3), GREY, np.uint8)
    whole[:height, :width] = cv2.resize(image, (width, height), interpolation=method)
    return normalise(whole), where


def normalise(image: Image) -> F32:
    """u8 [H, W, 3] RGB -> f32 [3, H, W] with ImageNet's mean and deviation."""
    return np.ascontiguousarray(((image - MEAN) / STD).astype(np.float32).transpose(2, 0, 1))
