"""What a segmenter is: it looks at a picture once, then cuts out whatever prompts point at.

A `Segmenter` is used from one thread at a time. It knows nothing of frames, tracks and time; those
who hold its results weigh them (`node/segmentation/automatic_masks.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask

F32 = npt.NDArray[np.float32]

EncodedImage = Any
"""What `encode` returns; only the segmenter that made it knows what is inside."""

PointXy = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SegmenterPrompt:
    """What to cut out, by any of three hints together; at least one.

    `points_xy_px` lie on the thing and `not_points_xy_px` do not, in pixels of the picture;
    `box_xyxy_px` surrounds it; `soft` f32 [h, w] 0..1 of any size, stretched over the picture, is
    an earlier or rough mask of it.
    """

    points_xy_px: tuple[PointXy, ...] = ()
    not_points_xy_px: tuple[PointXy, ...] = ()
    box_xyxy_px: tuple[float, float, float, float] | None = None
    soft: F32 | None = None

    def __post_init__(self) -> None:
        if not self.points_xy_px and self.box_xyxy_px is None and self.soft is None:
            raise ValueError("a prompt needs a point, a box or a mask")


@dataclass(frozen=True, slots=True)
class MaskPrediction:
    """One answer to a prompt.

    `logits` f32 [h, w], stretched over the picture, are positive inside. `score` 0..1 is the
    segmenter's own estimate of its IoU with the true outline.
    """

    logits: F32
    score: float

    @property
    def stability(self) -> float:
        """How little the outline depends on the threshold: IoU 0..1 of the masks at +1 and -1."""
        wide = np.count_nonzero(self.logits > -1.0)
        return float(np.count_nonzero(self.logits > 1.0) / wide) if wide else 0.0

    def soft(self, size: tuple[int, int]) -> F32:
        """The mask as f32 0..1 of `size` (height, width); 0.5 is the outline."""
        height, width = size
        logits = cv2.resize(self.logits, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -20, 20))), np.float32)

    def mask(self, size: tuple[int, int]) -> Mask:
        """The mask bool of `size` (height, width)."""
        return np.asarray(self.soft(size) > 0.5, np.bool_)


class Segmenter(Protocol):
    """Cuts things out of pictures."""

    @property
    def name(self) -> str:
        """Which model it is."""

    def encode(self, image: Image) -> EncodedImage:
        """Look at `image` u8 [H, W, 3] RGB of any size; the costly part, once per picture."""

    def features(self, encoded: EncodedImage) -> F32:
        """What it saw, f32 [C, h, w] stretched over the picture: alike where things are alike."""

    def segment(
        self, encoded: EncodedImage, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """For each prompt one or more answers: where a prompt is ambiguous, parts and wholes."""

    def stop(self) -> None:
        """For good: what is under way and every later call raises soon, where that can be done. Any
        thread may call it.
        """
