"""Pix2Cap-COCO: a panoptic JSON with a `description` for every segment, and its folder of PNGs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Rle
from ureca.errors import RegionError, SourceError, WireError
from ureca.models.data.readers import coco
from ureca.models.data.readers.core import (
    MAX_PICTURE_BYTES,
    ImportJob,
    Rejected,
    SourcePicture,
    SourceRegion,
    join_inside,
    load_json,
    make_picture_key,
    read_file,
)
from ureca.protocol import rle
from ureca.protocol.image_header import measure

_LEAST_CHARS = 3
"""The authors' loader takes shorter descriptions for missing ones."""


class Segment(msgspec.Struct):
    """One segment; its id is its colour in the PNG."""

    id: int
    category_id: int
    iscrowd: int = 0
    description: str = ""


class Pix2CapAnnotation(msgspec.Struct):
    """The segments of a picture."""

    image_id: int
    file_name: str
    segments_info: list[msgspec.Raw]


class Pix2CapFile(msgspec.Struct):
    """A file; `images` may be missing, then pictures are named like their PNGs."""

    annotations: list[msgspec.Raw]
    images: list[msgspec.Raw] = []
    categories: list[coco.Category] = []
    licenses: list[coco.License] = []


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures with their segments. Raises `SourceError` unless there are a JSON and a folder."""
    files, folders = [p for p in paths if p.is_file()], [p for p in paths if p.is_dir()]
    if not files or not folders:
        raise SourceError("expected pix2cap_coco_*.json and the folder of its panoptic PNGs")
    for path in files:
        file = load_json(path, Pix2CapFile)
        names = {category.id: category for category in file.categories}
        licenses = {entry.id: coco.shorten_license(entry) for entry in file.licenses}
        images = {image.id: image for image in job.parse_rows(file.images, coco.CocoImage)}
        for row in job.parse_rows(file.annotations, Pix2CapAnnotation):
            image = images.get(row.image_id)
            name = image.file_name if image else f"{Path(row.file_name).stem}.jpg"
            yield SourcePicture(
                key=make_picture_key(job.name, name),
                file=name,
                size=(image.width, image.height) if image else None,
                license=licenses.get(image.license or 0, "") if image else "",
                photo_id=coco.parse_photo_id(image.flickr_url) if image else "",
                regions=tuple(_make_regions(row, folders, names, job)),
            )


def _make_regions(
    row: Pix2CapAnnotation, folders: Sequence[Path], names: dict[int, coco.Category], job: ImportJob
) -> Iterator[SourceRegion]:
    try:
        png = next(p for folder in folders if (p := join_inside(folder, row.file_name)).is_file())
    except (StopIteration, Rejected):
        job.reject("no such panoptic PNG", len(row.segments_info))
        return
    for segment in job.parse_rows(row.segments_info, Segment):
        if segment.iscrowd:
            job.reject("crowd")
            continue
        category = names.get(segment.category_id)
        text = segment.description if len(segment.description.strip()) >= _LEAST_CHARS else ""
        yield SourceRegion(
            region_id=f"{row.image_id}_{segment.id}",
            draw=partial(_make_segment_mask, png, segment.id),
            mask_source="gt:coco-panoptic",
            long=(text,),
            category=category.name if category else "",
            stuff=category is not None and not category.isthing,
            expr_source="machine_checked",
        )


def _make_segment_mask(png: Path, segment: int, height: int, width: int) -> Rle:
    ids = read_segment_ids(png)
    if ids.shape != (height, width):
        raise RegionError(f"{png} has {list(ids.shape)}, its picture {[height, width]}")
    return rle.encode(ids == segment)


@lru_cache(maxsize=2)
def read_segment_ids(png: Path) -> npt.NDArray[np.int32]:
    """Segment ids i32 [H, W]: red + 256 green + 65,536 blue."""
    try:
        data = read_file(png, MAX_PICTURE_BYTES)
        facts = measure(data)
    except (SourceError, WireError) as error:
        raise RegionError(str(error)) from error
    if facts.width * facts.height > rle.MAX_PIXELS:
        raise RegionError(f"{png} has {facts.width}x{facts.height} pixels")
    colours = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if colours is None:
        raise RegionError(f"{png} cannot be decoded")
    return np.asarray(colours.astype(np.int32) @ np.array([1, 256, 65536], np.int32), np.int32)
