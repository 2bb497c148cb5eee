"""Pictures whose every pixel belongs to a segment: our data folders, or COCO's panoptic files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ureca.errors import ConfigError, SourceError, WireError
from ureca.models.curation.records import CuratedPicture, CuratedRegion, Reason
from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore
from ureca.models.evaluation.panoptic.cases import PanopticCase, TrueSegment, read_panoptic_cases
from ureca.models.evaluation.panoptic.coco_files import make_true_case, read_coco_panoptic
from ureca.protocol import rle
from ureca.protocol.image_header import measure_head

Json = dict[str, Any]  # JSON values
ClassName = tuple[str, bool]
"""A class, and whether it is stuff."""


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """Pictures with their segments, the file of each by its key, classes by name, and pixels."""

    pictures: tuple[CuratedPicture, ...]
    files: dict[str, str]
    classes: dict[ClassName, int]
    images: ImageStore

    def make_categories(self) -> list[Json]:
        """COCO's `categories`."""
        rows = sorted((number, name, stuff) for (name, stuff), number in self.classes.items())
        return [{"id": n, "name": name, "isthing": int(not stuff)} for n, name, stuff in rows]


def read_segments(
    path: Path, *, images: Sequence[Path] = (), also: Sequence[Path] = (), limit: int | None = None
) -> SegmentSource:
    """Read a data folder (its training pictures with `panoptic: true`; `also` are folders that may
    list the same photographs under other keys) or a panoptic JSON, whose pictures are in `images`.
    Raises `ConfigError` or `SourceError` when there is none.
    """
    if path.is_dir():
        known = [path, *also]
        cases = read_panoptic_cases(
            [path], every=HELD_OUT_EVERY, held_out=False, known=known, limit=limit
        )
        return _make_source(cases, ImageStore([path / "images", *images]))
    if not images:
        raise ConfigError("expected --images FOLDER: where are the pictures of the COCO file?")
    files, numbers = {}, {}
    pictures = []
    for picture in islice(read_coco_panoptic(path), limit):
        files[picture.key] = picture.file_name
        for _, category in picture.rows:
            if category is not None:
                numbers[category.name, not category.isthing] = category.id
        pictures.append(_make_picture(make_true_case(picture)))
    return SegmentSource(tuple(pictures), files, numbers, ImageStore(images))


def _make_source(cases: Iterable[PanopticCase], images: ImageStore) -> SegmentSource:
    """Pictures of a data folder; classes get numbers in the order of their names."""
    pictures = tuple(map(_make_picture, cases))
    keys = [picture.image_key for picture in pictures]
    files = {key: key + find_suffix(images.read_encoded(key)) for key in keys}
    names = {(one.category, one.stuff) for picture in pictures for one in picture.regions}
    return SegmentSource(pictures, files, {n: i for i, n in enumerate(sorted(names), 1)}, images)


def find_suffix(encoded: bytes) -> str:
    """The suffix of a file name, by what the picture is. Raises `SourceError` if it is none."""
    try:
        kind = measure_head(encoded).kind
    except WireError as error:
        raise SourceError(str(error)) from error
    return ".jpg" if kind == "jpeg" else f".{kind}"


def _make_picture(case: PanopticCase) -> CuratedPicture:
    height, width = case.ids.shape
    regions = tuple(_make_regions(case))
    if len({one.region_id for one in regions}) != len(regions):
        raise SourceError(f"{case.image_key} has two segments with one id")
    return CuratedPicture(
        image_key=case.image_key, height=height, width=width, regions=tuple(regions)
    )


def _make_regions(case: PanopticCase) -> Iterator[CuratedRegion]:
    for one in case.segments:
        mask = np.asarray(case.ids == one.number, np.bool_)
        yield CuratedRegion(
            region_id=f"{case.image_key}_{one.number}",
            counts=rle.encode(mask).counts,
            box_xywh_px=tuple(cv2.boundingRect(mask.view(np.uint8))),  # type: ignore[arg-type]
            share=float(mask.mean()),
            category=one.category,
            stuff=one.stuff,
            left_out=_reject(one) if mask.any() else "bad_mask",
        )


def _reject(segment: TrueSegment) -> Reason | None:
    return "crowd" if segment.crowd else None
