"""Images as a detector's input, and boxes and masks back from it.

A detector sees a canvas. The image lies on it as a rectangle of whole pixels, stretched by one
factor per axis. `canvas.py` does the same for the mask head, whose image is always at the upper
left.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image
from ureca.errors import RegionError
from ureca.models.runtime.segmentation.base import F32
from ureca.models.runtime.segmentation.detectors.config import DetectorInput

MOST_MASK_SIDE_PX = 512
"""Masks are kept with at most this side; they are stretched over the image where they are used."""
MOST_INPUT_SIDE_PX = 1333
"""Of an image that keeps its size (`resize: none`); larger ones are shrunk to this."""


@dataclass(frozen=True, slots=True)
class InputPlacement:
    """Where an image of `size` (height, width) lies on a canvas (height, width): `filled` (height,
    width) pixels of it, from `corner_xy_px` on.
    """

    size: tuple[int, int]
    canvas: tuple[int, int]
    filled: tuple[int, int]
    corner_xy_px: tuple[int, int] = (0, 0)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Pixels of the canvas for one of the image."""
        return self.filled[1] / self.size[1], self.filled[0] / self.size[0]

    def map_boxes_to_image(self, boxes: F32) -> F32:
        """Boxes f32 [N, 4] xyxy on the canvas as pixels of the image, clipped to it."""
        corner = np.array(self.corner_xy_px * 2, np.float32)
        scale = np.array(self.scale_xy * 2, np.float32)
        high = np.array((self.size[1], self.size[0]) * 2, np.float32)
        return np.asarray(np.clip((boxes - corner) / scale, 0, high), np.float32)

    def crop_to_image(self, logits: F32) -> F32:
        """Logits f32 [N, h, w] over the canvas -> [N, h', w'] over the image, at about the same
        resolution and at most `MOST_MASK_SIDE_PX` a side.
        """
        ratio_x, ratio_y = (logits.shape[2 - n] / self.canvas[1 - n] for n in (0, 1))
        exact = self.filled[0] * ratio_y, self.filled[1] * ratio_x
        shrink = min(1.0, MOST_MASK_SIDE_PX / max(exact))
        height, width = (max(1, round(side * shrink)) for side in exact)
        left, top = self.corner_xy_px[0] * ratio_x, self.corner_xy_px[1] * ratio_y
        if (left, top) == (0, 0) and (height, width) == logits.shape[1:] == exact:
            return logits
        # Pixel centres: x_map = left + (x + .5) * step - .5.
        step_y, step_x = exact[0] / height, exact[1] / width
        matrix = np.array(
            [[step_x, 0, left + step_x / 2 - 0.5], [0, step_y, top + step_y / 2 - 0.5]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        shown = np.empty((len(logits), height, width), np.float32)
        for row, one in enumerate(logits):
            shown[row] = cv2.warpAffine(
                one, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
        return shown


def place_image(
    size: tuple[int, int], config: DetectorInput, canvas: tuple[int, int] | None
) -> InputPlacement:
    """Fit an image of `size` (height, width) into `canvas`; None: the image is the canvas, at most
    `MOST_INPUT_SIDE_PX` a side.
    """
    if min(size) < 1:
        raise RegionError(f"expected an image with pixels, got {size[1]}x{size[0]}")
    if canvas is None:
        shrink = min(1.0, MOST_INPUT_SIDE_PX / max(size))
        sides = max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
        return InputPlacement(size, sides, sides)
    if config.resize != "letterbox":
        return InputPlacement(size, canvas, canvas)
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (
        min(room, max(1, round(side * scale))) for side, room in zip(size, canvas, strict=True)
    )
    if config.place == "upper-left":
        return InputPlacement(size, canvas, (height, width))
    corner = (canvas[1] - width) // 2, (canvas[0] - height) // 2
    return InputPlacement(size, canvas, (height, width), corner)


def make_network_input(image: Image, config: DetectorInput, where: InputPlacement) -> F32:
    """An RGB image u8 [H, W, 3] as f32 [3, canvas height, canvas width]."""
    height, width = where.filled
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    shown: npt.NDArray[np.uint8] = np.full((*where.canvas, 3), config.pad, np.uint8)
    left, top = where.corner_xy_px
    shown[top : top + height, left : left + width] = (
        image
        if image.shape[:2] == (height, width)
        else cv2.resize(image, (width, height), interpolation=method)
    )
    if config.channels == "bgr":
        shown = shown[:, :, ::-1]
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    values = (shown * np.float32(config.scale) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)
