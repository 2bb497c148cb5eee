"""Captions of all segments of a picture, from one prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ureca.datatypes import Image, Mask, RegionInput, RowDone, Style
from ureca.engine import Engine
from ureca.models.runtime.segmentation.panoptic.segments import PanopticMap

_REASONS = {"aborted": "the captioner was stopped", "non_finite": "the captioner's numbers failed"}
_EMPTY = "the captioner found no words"
_TOO_SMALL = "it has no pixel in the image's size"


@dataclass(frozen=True, slots=True)
class SegmentCaption:
    """What a segment is called: its caption and score 0..1, or the reason why it has none."""

    text: str = ""
    score: float = 0.0
    reason: str = ""


def caption_segments(
    engine: Engine, image: Image, found: PanopticMap, *, style: Style = "short"
) -> dict[int, SegmentCaption]:
    """The caption of every segment by its number, things before stuff, in the engine's batches.

    The image is encoded once. Raises the engine's errors for the image itself.
    """
    masks = {one.number: resize_mask(found.mask(one.number), image.shape) for one in found.segments}
    captions = {n: SegmentCaption(reason=_TOO_SMALL) for n in masks}
    asked = [n for n, mask in masks.items() if mask.any()]
    if not asked:
        return captions
    frame = engine.encode(image)
    step = engine.info.max_regions
    for begin in range(0, len(asked), step):
        batch = asked[begin : begin + step]
        regions = [RegionInput(masks[n], style, engine.info.max_new_tokens) for n in batch]
        captions |= _collect(batch, list(engine.caption(frame, regions)))
    return captions


def _collect(numbers: Sequence[int], events: Sequence[object]) -> Mapping[int, SegmentCaption]:
    done = [event for event in events if isinstance(event, RowDone)]
    return {numbers[one.row]: _make_caption(one) for one in done}


def _make_caption(row: RowDone) -> SegmentCaption:
    reason = _REASONS.get(row.stop, "" if row.text else _EMPTY)
    return SegmentCaption(reason=reason) if reason else SegmentCaption(row.text, row.score)


def resize_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """The mask bool [H, W] at the size of an image [H, W, 3]."""
    height, width = shape[:2]
    if mask.shape == (height, width):
        return mask
    large = cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(large > 0, np.bool_)
