"""COCO's panoptic format from a run: a JSON with a `description` for each segment, and PNGs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ureca.models.curation.errors import OutputError
from ureca.models.curation.panoptic.sources import SegmentSource
from ureca.models.curation.records import CuratedPicture, CuratedRegion
from ureca.models.data.regions import ImageStore
from ureca.models.runtime.segmentation.panoptic.coco_format import (
    encode_segment_png,
    write_coco_json,
)

JSON, MAPS = "panoptic.json", "panoptic"
Json = dict[str, Any]  # JSON values


def save_map(out: Path, picture: CuratedPicture) -> None:
    """Write the picture's PNG of ids; it appears complete or not at all."""
    ids = np.zeros((picture.height, picture.width), np.int64)
    for region in picture.regions:
        ids[picture.decode_mask(region)] = get_number(region)
    _write_file(out / MAPS / _name_map(picture.image_key), encode_segment_png(ids))


def save_image(out: Path, file: str, key: str, store: ImageStore) -> None:
    """Copy a picture's own file to `OUT/images/FILE`, if it is not there."""
    path = out / "images" / Path(file).name
    if not path.is_file():
        _write_file(path, store.read_encoded(key))


def _write_file(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}; make room and start again") from error


def get_number(region: CuratedRegion) -> int:
    """The segment's id in its PNG."""
    return int(region.region_id.rpartition("_")[2])


def write_panoptic(out: Path, done: Sequence[CuratedPicture], source: SegmentSource) -> Json:
    """Write `panoptic.json` of finished pictures. Return counts: pictures whose every segment has a
    caption, and captions that two segments of one picture share.
    """
    images, annotations = [], []
    for number, picture in enumerate(done, 1):
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": number, "file_name": source.files[picture.image_key], **size})
        rows = [_make_row(picture, region, source.classes) for region in picture.regions]
        annotations.append(
            {
                "image_id": number,
                "file_name": _name_map(picture.image_key),
                "segments_info": [row for row in rows if row["area"]],
            }
        )
    write_coco_json(out / JSON, images, annotations, source.make_categories())
    complete = sum(all(one.caption or one.left_out == "crowd" for one in p.regions) for p in done)
    return {"pictures_complete": complete, "same_words": sum(map(_count_same, done))}


def _make_row(
    picture: CuratedPicture, region: CuratedRegion, classes: Mapping[tuple[str, bool], int]
) -> Json:
    row = {
        "id": get_number(region),
        "category_id": classes.get((region.category, region.stuff), 0),
        "isthing": int(not region.stuff),
        "iscrowd": int(region.left_out == "crowd"),
        "area": int(np.count_nonzero(picture.decode_mask(region))),
        "bbox": list(region.box_xywh_px),
        "description": "" if region.left_out else region.caption,
    }
    return {**row, "reason": region.left_out} if region.left_out else row


def _count_same(picture: CuratedPicture) -> int:
    words = Counter(region.caption for region in picture.kept)
    return sum(n for n in words.values() if n > 1)


def _name_map(key: str) -> str:
    return f"{quote(key, safe='')}.png"
