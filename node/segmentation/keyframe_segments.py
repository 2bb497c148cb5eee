"""The segments of a keyframe as a small id map, which events and recordings hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from ureca.errors import EngineError
from ureca.models.runtime.segmentation.base import EncodedImage, EverythingSegmenter
from ureca.models.runtime.segmentation.panoptic import find_segments

U8 = npt.NDArray[np.uint8]
_WIDTHS_PX = (320, 240, 160, 96)
_MOST_BYTES = 12_000
"""A header of the protocol holds binaries of 16 KiB."""


@dataclass(frozen=True, slots=True)
class KeyframeSegments:
    """`png`: an id map in 8-bit grey, stretched over the frame, 0 for the rest. `segments`: number,
    kind (`thing`, `stuff`) and score of each. `stage_us`: durations in microseconds by stage.
    """

    png: bytes
    segments: tuple[tuple[int, str, float], ...]
    stage_us: dict[str, int] = field(default_factory=dict)


def segment_keyframe(
    segmenter: EverythingSegmenter, encoded: EncodedImage, size: tuple[int, int], *, most: int
) -> KeyframeSegments:
    """The segments of an image of `size` (height, width), things first, at most `most`."""
    width = min(size[1], _WIDTHS_PX[0])
    small = max(1, round(size[0] * width / size[1])), width
    found = find_segments(segmenter, encoded, small)
    kept = found.segments[:most]
    known = np.array([0, *(one.number for one in kept)])
    ids = np.where(np.isin(found.ids, known), found.ids, 0).astype(np.uint8)
    rows = tuple((one.number, one.kind, round(one.score, 4)) for one in kept)
    return KeyframeSegments(encode_ids(ids), rows)


def encode_ids(ids: U8) -> bytes:
    """A PNG of an id map u8 [h, w]; a very ragged one is made smaller until it fits an event."""
    for width in _WIDTHS_PX:
        if width < ids.shape[1]:
            size = width, max(1, round(ids.shape[0] * width / ids.shape[1]))
            ids = np.asarray(cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        done, png = cv2.imencode(".png", ids, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if done and len(png) <= _MOST_BYTES:
            return png.tobytes()
    raise EngineError(f"an id map of {list(ids.shape)} does not fit {_MOST_BYTES} bytes")


def decode_ids(png: bytes) -> U8:
    """The ids u8 [h, w] of `encode_ids`. Raises `EngineError` for other bytes."""
    ids = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if ids is None:
        raise EngineError(f"expected a PNG as the id map, got {len(png)} other bytes")
    return np.asarray(ids, np.uint8)
