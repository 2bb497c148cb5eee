"""COCO's panoptic format, written: a JSON of segments, and a PNG of ids for each picture.

Every segment has its caption as `description`, as Pix2Cap's files do (arXiv 2501.13893).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.errors import RegionError
from ureca.models.runtime.segmentation.panoptic.caption_segments import SegmentCaption
from ureca.models.runtime.segmentation.panoptic.segments import PanopticMap, PanopticSegment

CATEGORIES = (
    {"id": 1, "name": "thing", "supercategory": "thing", "isthing": 1},
    {"id": 2, "name": "stuff", "supercategory": "stuff", "isthing": 0},
)
"""The classes of a system without classes; what a segment is, its `description` says."""


def make_segment_rows(
    found: PanopticMap, captions: Mapping[int, SegmentCaption]
) -> list[dict[str, Any]]:
    """`segments_info` of one picture, one row for each segment."""
    areas = found.areas()
    return [_make_row(one, found, areas, captions) for one in found.segments]


def _make_row(
    segment: PanopticSegment,
    found: PanopticMap,
    areas: Mapping[int, int],
    captions: Mapping[int, SegmentCaption],
) -> dict[str, Any]:
    caption = captions.get(segment.number, SegmentCaption(reason="it was not captioned"))
    row = {
        "id": segment.number,
        "category_id": 1 if segment.kind == "thing" else 2,
        "isthing": int(segment.kind == "thing"),
        "iscrowd": 0,
        "area": areas[segment.number],
        "bbox": make_box(found.mask(segment.number)),
        "score": round(segment.score, 4),
        "description": caption.text,
    }
    return {**row, "reason": caption.reason} if caption.reason else row


def make_box(mask: Mask) -> list[int]:
    """COCO's `bbox` [x, y, width, height] of a mask bool [H, W]."""
    return [int(value) for value in cv2.boundingRect(mask.view(np.uint8))]


def encode_segment_png(ids: npt.NDArray[np.integer[Any]]) -> bytes:
    """A PNG whose colours are ids [H, W]: red + 256 green + 65,536 blue."""
    wide = np.asarray(ids, np.int64)
    colours = np.stack([wide // 65536, wide // 256 % 256, wide % 256], 2).astype(np.uint8)
    done, png = cv2.imencode(".png", colours)  # OpenCV wants blue first
    if not done:
        raise RegionError(f"cannot encode a map of {list(ids.shape)}")
    return png.tobytes()


def write_coco_json(
    path: Path,
    images: list[Any],
    annotations: list[Any],
    categories: Sequence[Mapping[str, Any]] = CATEGORIES,
) -> None:
    """Write the file in one step, so that no reader sees half of it."""
    content = {"images": images, "annotations": annotations, "categories": list(categories)}
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(content) + "\n", encoding="utf8")
    draft.replace(path)
