"""Reads data folders, and runs the checks that need all of their records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from ureca.errors import ConfigError, SourceError
from ureca.models.data.check import (
    DataFinding,
    check_ids,
    check_listed,
    check_photographs,
    check_record,
    check_splits,
)
from ureca.models.data.images import ImageRecord
from ureca.models.data.regions import ImageStore, RegionRecord, hash_image_key, read_rows

_Record = TypeVar("_Record", RegionRecord, ImageRecord)


@dataclass(frozen=True)
class FolderContents:
    """The readable content of the folders, and findings on the rest."""

    records: tuple[RegionRecord, ...]
    images: tuple[ImageRecord, ...]
    unreadable: tuple[DataFinding, ...]


def read_folders(roots: Sequence[Path]) -> FolderContents:
    """Read the records of all folders. Unreadable lines become findings.

    Raises `ConfigError` for a folder without regions.
    """
    records: list[RegionRecord] = []
    images: list[ImageRecord] = []
    unreadable: list[DataFinding] = []
    for root in roots:
        files = sorted(root.glob("regions-*.jsonl*"))
        if not files:
            raise ConfigError(f"{root} has no regions-*.jsonl[.gz]; expected a data folder")
        for path in files:
            records += _read_records(path, RegionRecord.from_json, unreadable)
        for path in sorted(root.glob("images-*.jsonl*")):
            images += _read_records(path, ImageRecord.from_json, unreadable)
    return FolderContents(tuple(records), tuple(images), tuple(unreadable))


def _read_records(
    path: Path, from_json: Callable[[object], _Record], unreadable: list[DataFinding]
) -> Iterator[_Record]:
    try:
        for row in tqdm(read_rows(path), desc=path.name, unit="line", disable=None):
            try:
                yield from_json(row)
            except SourceError as error:  # noqa: PERF203 - one bad line must not hide the rest
                unreadable.append(DataFinding("unreadable record", path.name, str(error)))
    except SourceError as error:  # the rest of the file cannot be read
        unreadable.append(DataFinding("unreadable record", path.name, str(error)))


def check_regions(data: FolderContents, every: int) -> Iterator[DataFinding]:
    """Return faults of every region and of ids, splits and photographs over all folders."""
    for record in tqdm(data.records, desc="regions", unit="region", disable=None):
        yield from check_record(record)
    yield from check_ids((r.region_id for r in data.records), "duplicate region")
    yield from check_listed(data.images)
    rows = [(r.image_key, r.split) for r in data.records]
    yield from check_splits([*rows, *((i.image_key, i.split) for i in data.images)])
    yield from check_photographs(data.images, every)


def check_pictures(
    data: FolderContents, store: ImageStore, *, part: int, every: int
) -> Iterator[DataFinding]:
    """Return missing images; of an image in `part`: undecodable, of another size than its masks, or
    with the pixels of another image on the other side of the split.
    """
    sizes = {r.image_key: (r.height, r.width) for r in data.records}
    keys_by_pixels: dict[bytes, str] = {}
    for key in tqdm(sizes, desc="pictures", unit="picture", disable=None):
        if key not in store:
            yield DataFinding("missing picture", key, "is in none of the image shards")
        elif part <= 1 or hash_image_key(key) % part == 0:
            yield from _check_pixels(key, sizes[key], store, keys_by_pixels, every)


def _check_pixels(
    key: str, size: tuple[int, int], store: ImageStore, keys_by_pixels: dict[bytes, str], every: int
) -> Iterator[DataFinding]:
    try:
        image = store.read(key)
    except SourceError as error:
        yield DataFinding("undecodable picture", key, str(error))
        return
    if image.shape[:2] != size:
        found, expected = image.shape[1::-1], size[::-1]
        yield DataFinding("wrong picture size", key, f"{found}, its masks are {expected}")
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    other = keys_by_pixels.setdefault(digest, key)
    if (hash_image_key(other) % every == 0) != (hash_image_key(key) % every == 0):
        yield DataFinding("leak of a photograph", key, f"same pixels as {other}, only one held out")
