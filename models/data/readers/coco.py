"""COCO: `instances_*.json`, `captions_*.json`, and files of that form with words on their regions.

Boxes with a `caption` (GRiT's `test.json` of Visual Genome) become regions with words. In files of
MDETR's form (`finetune_refcocog_val_with_mask.json`, `vg_test_coco_format.json`) every "image" is
one expression with one annotation: those that mean the same region (`original_id`) are joined.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ureca.datatypes import Rle
from ureca.errors import RegionError
from ureca.models.data.readers.core import (
    ImportJob,
    SourcePicture,
    SourceRegion,
    load_json,
    make_picture_key,
)
from ureca.models.data.readers.masks import decode_coco_mask, fill_boxes

_CC = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/([\d.]+)")
_PHOTO = re.compile(r"/(\d+)_[0-9a-f]+(?:_\w)?\.jpg")


class License(msgspec.Struct):
    """One of `licenses`."""

    id: int
    name: str = ""
    url: str = ""


class Category(msgspec.Struct):
    """One of `categories`."""

    id: int
    name: str
    isthing: int = 1


class CocoImage(msgspec.Struct):
    """One of `images`."""

    id: int
    file_name: str
    width: int
    height: int
    license: int | None = None
    flickr_url: str | None = None
    caption: str | None = None
    video_id: int | str = 0
    frame_id: int | None = None
    """Of frames of videos: which video, and where in it."""


class CocoAnnotation(msgspec.Struct):
    """One of `annotations`: a region, or a caption of the picture."""

    id: int
    image_id: int
    category_id: int | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    """As it stands in the file: a million outlines are parsed one by one, when they are drawn."""
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: int = 0
    caption: str | None = None
    original_id: int | None = None

    @property
    def outlined(self) -> bool:
        """Whether there is more than a box."""
        return bytes(self.segmentation) not in {b"null", b"[]", b""}


class CocoFile(msgspec.Struct):
    """A file; of its rows each is read by itself, so that a bad one costs no other."""

    images: list[msgspec.Raw] = []
    annotations: list[msgspec.Raw] = []
    categories: list[Category] = []
    licenses: list[License] = []


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures of all files together, in the order of the first one that has them."""
    images: dict[int, CocoImage] = {}
    regions: dict[int, list[CocoAnnotation]] = {}
    captions: dict[int, list[str]] = {}
    names: dict[int, str] = {}
    licenses: dict[int, str] = {}
    for path in paths:
        file = load_json(path, CocoFile)
        names |= {category.id: category.name for category in file.categories}
        licenses |= {entry.id: shorten_license(entry) for entry in file.licenses}
        for image in job.parse_rows(file.images, CocoImage):
            images.setdefault(image.id, image)
        for annotation in job.parse_rows(file.annotations, CocoAnnotation):
            if not annotation.outlined and annotation.bbox is None:
                captions.setdefault(annotation.image_id, []).append(annotation.caption or "")
            else:
                regions.setdefault(annotation.image_id, []).append(annotation)
    job.reject("no such picture", sum(len(rows) for i, rows in regions.items() if i not in images))
    for group in _group_by_file(images.values()).values():
        head = group[0]
        expressions = [(image, row) for image in group for row in regions.get(image.id, ())]
        yield SourcePicture(
            key=make_picture_key(job.name, head.file_name),
            file=head.file_name,
            size=(head.width, head.height),
            license=licenses.get(head.license or 0, ""),
            photo_id=parse_photo_id(head.flickr_url),
            captions=tuple(text for image in group for text in captions.get(image.id, ())),
            regions=tuple(_read_regions(expressions, names, job)),
        )


def _group_by_file(images: Iterator[CocoImage] | Any) -> dict[str, list[CocoImage]]:
    """MDETR lists a picture once for every expression."""
    files: dict[str, list[CocoImage]] = {}
    for image in images:
        files.setdefault(image.file_name, []).append(image)
    return files


def _read_regions(
    found: Sequence[tuple[CocoImage, CocoAnnotation]], names: dict[int, str], job: ImportJob
) -> Iterator[SourceRegion]:
    texts: dict[int, list[str]] = {}
    first: dict[int, CocoAnnotation] = {}
    for image, row in found:
        if row.iscrowd:
            job.reject("crowd")
            continue
        number = row.id if row.original_id is None else row.original_id
        first.setdefault(number, row)
        texts.setdefault(number, []).extend(filter(None, (row.caption, image.caption)))
    for number, row in first.items():
        category = names.get(row.category_id or 0, "")
        # What MDETR and GRiT call their only category says nothing about a region.
        category = "" if texts[number] and len(names) == 1 else category
        yield make_region(row, region_id=str(number), texts=texts[number], category=category)


def make_region(
    row: CocoAnnotation, *, region_id: str, texts: Sequence[str], category: str
) -> SourceRegion:
    """A region from an annotation: its outline where there is one, else its box."""
    if row.outlined:
        draw = partial(_make_mask, row.segmentation)
    else:
        x, y, width, height = row.bbox or (0.0, 0.0, 0.0, 0.0)
        draw = partial(fill_boxes, [(x, y, x + width, y + height)])
    return SourceRegion(
        region_id=region_id,
        draw=draw,
        mask_source="gt:coco" if row.outlined else "box",
        texts=tuple(texts),
        category=category,
    )


def _make_mask(segmentation: msgspec.Raw, height: int, width: int) -> Rle:
    try:
        return decode_coco_mask(msgspec.json.decode(segmentation), height, width)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RegionError(f"segmentation: {error}") from error


def shorten_license(entry: License) -> str:
    """Short where it is a Creative Commons licence: "CC BY-NC 2.0"."""
    found = _CC.search(entry.url)
    return f"CC {found[1].upper()} {found[2]}" if found else entry.name


def parse_photo_id(url: str | None) -> str:
    """The photograph's number at Flickr, from its address."""
    found = _PHOTO.search(url or "")
    return found[1] if found else ""
