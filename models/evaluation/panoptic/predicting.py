"""What a segmenter and a captioner say of a picture, in the form that is judged."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from ureca.datatypes import Image
from ureca.engine import Engine
from ureca.models.evaluation.panoptic.matching import PredictedSegment, Prediction
from ureca.models.runtime.segmentation.base import EncodedImage, EverythingSegmenter
from ureca.models.runtime.segmentation.panoptic import PanopticMap, find_segments
from ureca.models.runtime.segmentation.panoptic.caption_segments import (
    SegmentCaption,
    caption_segments,
)
from ureca.models.runtime.segmentation.panoptic.find_parts import find_parts


def predict_segments(
    segmenter: EverythingSegmenter, encoded: EncodedImage, size: tuple[int, int]
) -> Prediction:
    """The segments of an encoded image of `size` (height, width), without captions."""
    return make_prediction(find_segments(segmenter, encoded, size), size, {})


def predict_picture(
    segmenter: EverythingSegmenter, engine: Engine | None, image: Image, *, parts: bool = False
) -> Prediction:
    """Segments, or with `parts` those of things, and their captions; without an engine no segment
    has one.
    """
    size = image.shape[0], image.shape[1]
    encoded = segmenter.encode(image)
    found = find_segments(segmenter, encoded, size)
    if parts:
        found = find_parts(segmenter, encoded, found).found
    captions = caption_segments(engine, image, found) if engine is not None else {}
    return make_prediction(found, size, captions)


def make_prediction(
    found: PanopticMap, size: tuple[int, int], captions: Mapping[int, SegmentCaption]
) -> Prediction:
    """A map at the size (height, width) of its picture, with captions by segment."""
    ids = found.ids
    if ids.shape != size:
        ids = np.asarray(cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    nothing = SegmentCaption(reason="no captioner")
    segments = tuple(
        PredictedSegment(
            number=one.number,
            caption=captions.get(one.number, nothing).text,
            reason=captions.get(one.number, nothing).reason,
            score=one.score,
            stuff=one.kind == "stuff",
        )
        for one in found.segments
    )
    return Prediction(ids.astype(np.int64), segments)
