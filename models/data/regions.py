"""Region-caption records and the folders that hold them.

One record type serves photographs and our own worlds. A folder has `regions-*.jsonl.gz`, one record
a line, and `images/*.tar`, plain USTAR shards whose members are `<image_key>.<extension>`. Fields
are described in the data set's own README; unknown fields are kept out of the record.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ureca.errors import SourceError


@dataclass(frozen=True, slots=True)
class RegionRecord:
    """One region of one picture and the words people (or a generator) gave it."""

    region_id: str
    image_key: str
    shard: str
    source: str
    height: int
    width: int
    counts: str
    """COCO compressed RLE of the mask at `height x width`."""
    box_xywh_px: tuple[float, float, float, float]
    mask_source: str = ""
    category: str = ""
    short: tuple[str, ...] = ()
    long: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, row: Any) -> RegionRecord:  # whatever the JSON line held
        """Read one line of `regions-*.jsonl`. Raises `SourceError` naming the missing field."""
        try:
            height, width = row["rle"]["size"]
            return cls(
                region_id=row["region_id"],
                image_key=row["image_key"],
                shard=row.get("shard", ""),
                source=row.get("source", ""),
                height=height,
                width=width,
                counts=row["rle"]["counts"],
                box_xywh_px=tuple(row["bbox"]),
                mask_source=row.get("mask_source", ""),
                category=row.get("category") or "",
                short=tuple(row.get("expressions") or ()),
                long=tuple(row.get("expressions_long") or ()),
                types=tuple(row.get("types") or ()),
            )
        except (KeyError, TypeError, ValueError) as error:
            name = row.get("region_id", "?") if isinstance(row, dict) else "?"
            raise SourceError(
                f"region {name!r}: {error!r}; expected region_id, image_key, bbox, rle"
            ) from error

    def held_out(self, every: int) -> bool:
        """Whether this record's picture belongs to the hash-held-out split (one picture in
        `every`).
        """
        return image_hash(self.image_key) % every == 0


def image_hash(image_key: str) -> int:
    """A stable number for a picture; the held-out split must never change."""
    return int(hashlib.md5(image_key.encode(), usedforsecurity=False).hexdigest(), 16)


def read_regions(path: Path) -> Iterator[RegionRecord]:
    """Records of a `.jsonl` or `.jsonl.gz` file. Raises `SourceError` naming file and line."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield RegionRecord.from_json(_row(line, path, number))
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error}") from error


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError as error:
        raise SourceError(f"{path}:{number}: not a JSON object ({error})") from error


class ImageStore:
    """Pictures by key, from tar shards and folders; tars are indexed once and then read at an
    offset.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._where: dict[str, tuple[Path, int, int]] = {}
        for root in roots:
            self._index(root)

    def _index(self, root: Path) -> None:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        if not files:
            raise SourceError(f"no pictures under {root}: expected .tar shards or picture files")
        for path in files:
            if path.suffix == ".tar":
                self._index_tar(path)
            elif path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}:
                self._where.setdefault(path.stem, (path, 0, -1))

    def _index_tar(self, path: Path) -> None:
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile():
                        self._where[Path(member.name).stem] = (
                            path,
                            member.offset_data,
                            member.size,
                        )
        except (OSError, tarfile.TarError) as error:
            raise SourceError(f"cannot read shard {path}: {error}") from error

    def __contains__(self, image_key: str) -> bool:
        return image_key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def read(self, image_key: str) -> npt.NDArray[np.uint8]:
        """The picture as u8 [H, W, 3] RGB. Raises `SourceError` when absent or not decodable."""
        if image_key not in self._where:
            raise SourceError(f"picture {image_key!r} is in none of the given folders or tars")
        path, offset, size = self._where[image_key]
        with path.open("rb") as file:
            file.seek(offset)
            encoded = file.read(size)
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise SourceError(f"picture {image_key!r} in {path} cannot be decoded")
        return np.asarray(image, np.uint8)
