"""Visual Genome: `region_descriptions.json`, `image_data.json`, optionally a file of splits.

Its regions are boxes. Splits are an object of lists of image ids, as `densecap_splits.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from ureca.errors import SourceError
from ureca.models.data.readers.core import (
    ImportJob,
    SourcePicture,
    SourceRegion,
    is_list,
    load_json,
    parse_json,
)
from ureca.models.data.readers.masks import fill_boxes


class Described(msgspec.Struct):
    """One region: a box with a phrase."""

    region_id: int
    phrase: str
    x: float
    y: float
    width: float
    height: float


class VisualGenomeRegions(msgspec.Struct):
    """All regions of a picture."""

    id: int
    regions: list[msgspec.Raw]


class VisualGenomeImage(msgspec.Struct):
    """One picture."""

    image_id: int
    width: int
    height: int
    flickr_id: int | None = None


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures with their described boxes."""
    described, images, splits = _sort_files(paths, job)
    for row in described:
        image = images.get(row.id)
        if image is None:
            job.reject("no such picture", len(row.regions))
            continue
        yield SourcePicture(
            key=f"{job.name}_{row.id}",
            file=f"{row.id}.jpg",
            size=(image.width, image.height),
            split=splits.get(row.id, "none" if splits else ""),
            photo_id=str(image.flickr_id or ""),
            regions=tuple(map(_make_region, job.parse_rows(row.regions, Described))),
        )


def _make_region(row: Described) -> SourceRegion:
    box = (row.x, row.y, row.x + row.width, row.y + row.height)
    return SourceRegion(
        region_id=str(row.region_id),
        draw=partial(fill_boxes, [box]),
        mask_source="box",
        texts=(row.phrase,),
    )


def _sort_files(
    paths: Sequence[Path], job: ImportJob
) -> tuple[Iterator[VisualGenomeRegions], dict[int, VisualGenomeImage], dict[int, str]]:
    described: list[msgspec.Raw] = []
    images: dict[int, VisualGenomeImage] = {}
    splits: dict[int, str] = {}
    for path in paths:
        content = load_json(path, msgspec.Raw)
        if not is_list(content):
            for name, ids in parse_json(path, content, dict[str, list[int]]).items():
                splits |= dict.fromkeys(ids, name)
            continue
        rows = parse_json(path, content, list[msgspec.Raw])
        if rows and "regions" in parse_json(path, rows[0], dict[str, msgspec.Raw]):
            described = rows
        else:
            images |= {image.image_id: image for image in job.parse_rows(rows, VisualGenomeImage)}
    if not described or not images:
        raise SourceError(
            "expected region_descriptions.json and image_data.json, got "
            f"{', '.join(map(str, paths))}"
        )
    return job.parse_rows(described, VisualGenomeRegions), images, splits
