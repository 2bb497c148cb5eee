"""Pictures with masks to begin from: our data folders, or a folder in SA-1B's layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ureca.errors import SourceError
from ureca.models.curation.records import CuratedPicture, CuratedRegion
from ureca.models.data.folders import read_folders
from ureca.models.data.regions import ImageStore, RegionRecord, hash_image_key

_NO_MASKS = ("full_image", "box")


def read_pictures(roots: Sequence[Path], *, limit: int | None = None) -> list[CuratedPicture]:
    """Pictures in the order of their hashes (a few are a sample of all), with every region that
    has a mask; a filled box is none. Raises `ConfigError` for a folder without regions,
    `SourceError` for one without masks.
    """
    found = sorted(_list_pictures(roots), key=lambda each: hash_image_key(each.image_key))[:limit]
    if not found:
        raise SourceError(
            f"no masks under {', '.join(map(str, roots))}: boxes alone are not enough"
        )
    return found


def read_images(roots: Sequence[Path]) -> ImageStore:
    """The pixels of `read_pictures`."""
    return ImageStore([root if is_sa1b(root) else root / "images" for root in roots])


def is_sa1b(root: Path) -> bool:
    """Whether a folder holds `sa_*.json` beside `sa_*.jpg`."""
    return next(root.glob("sa_*.json"), None) is not None


def _list_pictures(roots: Sequence[Path]) -> Iterator[CuratedPicture]:
    for root in roots:
        yield from (_read_sa1b if is_sa1b(root) else _read_our_folder)(root)


def _read_our_folder(root: Path) -> Iterator[CuratedPicture]:
    records = [r for r in read_folders([root]).records if r.mask_source not in _NO_MASKS]
    records.sort(key=lambda record: record.image_key)
    for key, group in groupby(records, key=lambda record: record.image_key):
        rows = list(group)
        yield CuratedPicture(
            image_key=key,
            height=rows[0].height,
            width=rows[0].width,
            regions=tuple(map(_make_region, rows)),
        )


def _make_region(record: RegionRecord) -> CuratedRegion:
    return CuratedRegion(region_id=record.region_id, counts=record.counts)


def _read_sa1b(root: Path) -> Iterator[CuratedPicture]:
    """One JSON per picture: `image` {width, height}, `annotations` [{id, segmentation RLE}]."""
    yield from map(_read_sa1b_picture, sorted(root.glob("sa_*.json")))


def _read_sa1b_picture(path: Path) -> CuratedPicture:
    try:
        return _parse_sa1b_row(path.stem, json.loads(path.read_text("utf8")))
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise SourceError(f"{path} is not SA-1B's JSON: {error!r}") from error


def _parse_sa1b_row(stem: str, row: Any) -> CuratedPicture:  # whatever the file held
    height, width = int(row["image"]["height"]), int(row["image"]["width"])
    regions = []
    for annotation in row["annotations"]:
        if list(annotation["segmentation"]["size"]) != [height, width]:
            raise ValueError(f"mask {annotation['id']} is not {height}x{width}")
        region_id = f"{stem}:{annotation['id']}"
        regions.append(
            CuratedRegion(region_id=region_id, counts=str(annotation["segmentation"]["counts"]))
        )
    return CuratedPicture(image_key=stem, height=height, width=width, regions=tuple(regions))
