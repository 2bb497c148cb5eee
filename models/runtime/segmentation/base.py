"""The segmenter protocol: encode an image once, then segment what the prompts point at.

A `Segmenter` is used from one thread at a time. It does not know frames, tracks or time. Its
callers select among its results (`node/segmentation/automatic_masks.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask

if TYPE_CHECKING:
    from ureca.models.runtime.segmentation.panoptic.segments import PanopticMap

F32 = npt.NDArray[np.float32]

EncodedImage = Any
"""The result of `encode`. Only the segmenter that made it reads its content."""

PointXy = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SegmenterPrompt:
    """Points at one object by a point, a box, a mask, or several of them.

    `points_xy_px` lie on the object and `not_points_xy_px` do not, in pixels of the image;
    `box_xyxy_px` surrounds it; `soft` f32 [h, w] 0..1 of any size, stretched over the image, is an
    earlier or rough mask of it.
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
    """One prediction for a prompt.

    `logits` f32 [h, w], stretched over the image, are positive inside. `score` 0..1 is the
    segmenter's own estimate of its IoU with the true outline. `label` is the class that it sees,
    None from a segmenter without classes.
    """

    logits: F32
    score: float
    label: str | None = None

    @property
    def stability(self) -> float:
        """How little the outline depends on the threshold: IoU 0..1 of the masks at +1 and -1."""
        wide = np.count_nonzero(self.logits > -1.0)
        return float(np.count_nonzero(self.logits > 1.0) / wide) if wide else 0.0

    def soft(self, size: tuple[int, int]) -> F32:
        """Return the mask as f32 0..1 of `size` (height, width); 0.5 is the outline."""
        height, width = size
        logits = cv2.resize(self.logits, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -20, 20))), np.float32)

    def mask(self, size: tuple[int, int]) -> Mask:
        """Return the mask bool of `size` (height, width)."""
        height, width = size
        logits = cv2.resize(self.logits, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(logits > 0, np.bool_)


class Segmenter(Protocol):
    """Segments objects in images."""

    @property
    def name(self) -> str:
        """Name of the model."""

    def encode(self, image: Image) -> EncodedImage:
        """Encode `image` u8 [H, W, 3] RGB of any size. This is the expensive part, once per
        image.
        """

    def features(self, encoded: EncodedImage) -> F32:
        """Return its features, f32 [C, h, w] stretched over the image. Similar image content has
        similar features.
        """

    def segment(
        self, encoded: EncodedImage, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """Return one or more predictions for each prompt. An ambiguous prompt gets parts and
        wholes.
        """

    def stop(self) -> None:
        """Stop permanently: running and later calls raise soon if that is possible. Any thread may
        call it.
        """


class EverythingSegmenter(Segmenter, Protocol):
    """A segmenter that also says all that is in an image, without prompts."""

    def everything(self, encoded: EncodedImage) -> list[MaskPrediction]:
        """Return the masks of an image, best first, nested ones too; their number is bounded.
        All have logits of one size.
        """


class PanopticSegmenter(EverythingSegmenter, Protocol):
    """A segmenter that also gives every pixel to one segment."""

    def panoptic(self, encoded: EncodedImage, size: tuple[int, int]) -> PanopticMap:
        """The segments of an image, drawn at `size` (height, width)."""


def supports_everything(segmenter: Segmenter) -> TypeGuard[EverythingSegmenter]:
    """Whether the segmenter has `everything`; others are asked on a grid of points."""
    return callable(getattr(segmenter, "everything", None))


class CandidateSegmenter(EverythingSegmenter, Protocol):
    """One that can also give all masks that it thinks of, many of one thing, in no order."""

    def candidates(self, encoded: EncodedImage, /) -> list[MaskPrediction]:
        """All masks, before any is left out for another."""


def supports_candidates(segmenter: Segmenter) -> TypeGuard[CandidateSegmenter]:
    """Whether it gives all of its masks."""
    return callable(getattr(segmenter, "candidates", None))


def supports_panoptic(segmenter: Segmenter) -> TypeGuard[PanopticSegmenter]:
    """Whether the segmenter has `panoptic`; of others the masks of `everything` are arranged."""
    return callable(getattr(segmenter, "panoptic", None))


def list_class_names(segmenter: Segmenter) -> tuple[str, ...]:
    """The classes that the segmenter names its masks by; none where it has no `class_names`."""
    return tuple(getattr(segmenter, "class_names", ()))
