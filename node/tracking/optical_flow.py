"""Computes dense optical flow between two small grey images, and its reliability.

The flow is computed once per frame pair and shared by all tracks. It knows nothing of regions.
Spaces: `work` pixels are those of the reduced picture (`work_size`), which keeps the frame's aspect
ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image
from ureca.node.config import Preset

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
MIN_FLOW_SIDE_PX = 24
"""DIS needs a few pyramid levels; smaller pictures are enlarged to this side first."""


@dataclass(frozen=True, slots=True)
class FlowField:
    """Motion between two consecutive work pictures of [h, w].

    `backward` f32 [h, w, 2] leads from a pixel of the new picture to where it was in the old one
    (x, y in work pixels). `error_px` f32 [h, w] is the forward-backward disagreement at each pixel
    of the new picture.
    """

    backward: F32
    error_px: F32


class FlowEstimator:
    """Dense Inverse Search flow (`cv2.DISOpticalFlow`), forward and backward."""

    def __init__(self, preset: Preset = "fast") -> None:
        self._dis = cv2.DISOpticalFlow.create(_PRESETS[preset])

    def between(self, old_gray: U8, new_gray: U8) -> FlowField:
        """The motion from `old_gray` to `new_gray`, both u8 [h, w] of one size."""
        backward = np.asarray(self._dis.calc(new_gray, old_gray, None), np.float32)  # type: ignore[call-overload]
        forward = np.asarray(self._dis.calc(old_gray, new_gray, None), np.float32)  # type: ignore[call-overload]
        there_and_back = backward + sample(forward, backward)
        return FlowField(
            backward=backward, error_px=np.linalg.norm(there_and_back, axis=2).astype(np.float32)
        )


Window = tuple[slice, slice]
"""Rows and columns of a picture."""

EVERYWHERE: Window = (slice(None), slice(None))


def sample(values: F32, flow: F32, window: Window = EVERYWHERE) -> F32:
    """`values` f32 [h, w] or [h, w, C] read at the pixels of `window` plus `flow` f32 [h, w, 2].

    Bilinear; 0 outside the picture. Returns f32 of the window's size.
    """
    xs, ys = _grid(flow.shape[0], flow.shape[1])
    read = cv2.remap(
        values,
        xs[window] + flow[window][..., 0],
        ys[window] + flow[window][..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0.0,) * 4,
    )
    return np.asarray(read, np.float32)


def follow_point(point: tuple[float, float], backward: F32) -> tuple[float, float]:
    """Where a point (x, y) of the old picture is in the new one, both in work pixels.

    `backward` leads from the new picture to the old one, so its inverse is found by steps.
    """
    height, width = backward.shape[:2]
    x, y = point
    for _ in range(3):
        row, column = min(height - 1, max(0, int(y))), min(width - 1, max(0, int(x)))
        dx, dy = backward[row, column]
        x, y = point[0] - float(dx), point[1] - float(dy)
    return x, y


_RIGID_POINTS = 300


def rigid(soft: F32, backward: F32) -> F32:
    """`soft` f32 [h, w] moved by the one rotation, scale and shift that fits `backward` inside it.

    Where no such motion fits, it is moved pixel by pixel.
    """
    moved = sample(soft, backward)
    ys, xs = np.nonzero(moved > 0.5)
    if len(xs) < 3:
        return moved
    step = max(1, len(xs) // _RIGID_POINTS)
    here = np.stack([xs[::step], ys[::step]], axis=1).astype(np.float32)
    there = here + backward[ys[::step], xs[::step]]
    found: object = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=1.0)[0]
    if not isinstance(found, np.ndarray) or not np.isfinite(found).all():  # OpenCV says None
        return moved
    size = (soft.shape[1], soft.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(soft, found, size, flags=flags), np.float32)


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> tuple[F32, F32]:
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return xs, ys


def work_size(height: int, width: int, *, work_width_px: int) -> tuple[int, int]:
    """(height, width) of the work picture: at most `work_width_px` wide, never enlarged past the
    flow's minimum.
    """
    scale = min(1.0, work_width_px / width)
    return max(MIN_FLOW_SIDE_PX, round(height * scale)), max(MIN_FLOW_SIDE_PX, round(width * scale))


def shrink(image: Image, size: tuple[int, int]) -> U8:
    """`image` u8 [H, W, 3] averaged down to `size` (height, width)."""
    height, width = size
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
