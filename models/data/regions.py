"""Region-caption records and the folders that hold them.

One record type serves photographs and our own worlds. A folder has `regions-*.jsonl.gz`, one record
a line, `images-*.jsonl.gz`, one picture a line, and `images/*.tar`, plain USTAR shards of
`<image_key>.<extension>`. `docs/data.md` describes the fields; unknown ones are left out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import operator
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ureca.errors import SourceError, WireError
from ureca.protocol.image_header import first_picture, measure

HELD_OUT_EVERY = 16
"""One picture in this many, by the hash of its key, is for development and never trained on."""
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""Suffixes of pictures; a shard may hold other things beside them."""
_NEEDED = frozenset({"region_id", "image_key", "bbox", "rle"})
_AS_THEY_ARE = (
    *(
        "shard",
        "source",
        "mask_source",
        "mask_score",
        "category",
        "part",
        "stuff",
        "group",
        "parent",
    ),
    *("expr_source", "split", "license"),
)


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
    mask_score: float = 0.0
    """How sure the mask's maker is of it, 0..1; 0 where nobody said."""
    category: str = ""
    short: tuple[str, ...] = ()
    long: tuple[str, ...] = ()
    attributes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Texts about one attribute of the region: pairs of its name and the texts."""
    types: tuple[str, ...] = ()
    part: bool = False
    """A part of a thing: clothing, a body part, a handle."""
    stuff: bool = False
    """Background or scenery: water, grass, a wall."""
    group: bool = False
    """Several things in one mask."""
    parent: str = ""
    """Of a part: the `region_id` of the thing, where the source says it (`parent`, `part_of`)."""
    expr_source: str = ""
    """Whose words: `human_phrase`, `caption_np`, `image_caption`, `template` or `none`."""
    split: str = ""
    license: str = ""

    @classmethod
    def from_json(cls, row: Any) -> RegionRecord:  # whatever the JSON line held
        """Read one line of `regions-*.jsonl`. Raises `SourceError` naming the missing field."""
        try:
            height, width = row["rle"]["size"]
            x, y, box_width, box_height = row["bbox"]
            return cls(
                region_id=_to_text(row["region_id"]),
                image_key=_to_text(row["image_key"]),
                height=operator.index(height),
                width=operator.index(width),
                counts=_to_text(row["rle"]["counts"]),
                box_xywh_px=(float(x), float(y), float(box_width), float(box_height)),
                short=tuple(map(_to_text, row.get("expressions") or ())),
                long=tuple(map(_to_text, row.get("expressions_long") or ())),
                attributes=_read_attributes(row.get("attributes") or {}),
                types=tuple(map(_to_text, row.get("types") or ())),
                part=bool(row.get("part")),
                stuff=bool(row.get("stuff")),
                group=bool(row.get("group")),
                shard=_read_optional(row, "shard"),
                source=_read_optional(row, "source"),
                mask_source=_read_optional(row, "mask_source"),
                category=_read_optional(row, "category"),
                parent=_read_optional(row, "parent") or _read_optional(row, "part_of"),
                expr_source=_read_optional(row, "expr_source"),
                split=_read_optional(row, "split"),
                mask_score=float(row.get("mask_score") or 0.0),
                license=_read_optional(row, "license"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = row.get("region_id", "?") if isinstance(row, dict) else "?"
            raise SourceError(
                f"region {name!r}: {error!r}; expected region_id, image_key, bbox [x, y, w, h], "
                "rle {size, counts}, and lists of texts"
            ) from error

    def to_json(self) -> dict[str, Any]:  # JSON
        """The line that `from_json` reads back as this record; what is not set is left out."""
        row = {
            "region_id": self.region_id,
            "image_key": self.image_key,
            "bbox": list(self.box_xywh_px),
            "rle": {"size": [self.height, self.width], "counts": self.counts},
            "expressions": list(self.short),
            "expressions_long": list(self.long),
            "attributes": {name: list(texts) for name, texts in self.attributes},
            "types": list(self.types),
        }
        rest = {name: getattr(self, name) for name in _AS_THEY_ARE}
        return {name: value for name, value in {**row, **rest}.items() if value or name in _NEEDED}

    @property
    def for_training(self) -> bool:
        """Whether its data set lets it be trained on: its split is `train`, or it has none."""
        return self.split in {"", "train"}

    def is_held_out(self, every: int) -> bool:
        """Whether the hash of the record's image holds it out of training (one image in
        `every`).
        """
        return hash_image_key(self.image_key) % every == 0


def _to_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.60}")
    return value


def _read_attributes(found: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:  # JSON
    """Texts by name; one text may stand without a list."""
    listed = {name: texts if isinstance(texts, list) else [texts] for name, texts in found.items()}
    return tuple((_to_text(n), tuple(map(_to_text, texts))) for n, texts in listed.items())


def _read_optional(row: dict[str, Any], name: str) -> str:
    return _to_text(row.get(name) or "")


def hash_image_key(image_key: str) -> int:
    """Return a stable number for an image. The held-out split must never change."""
    return int(hashlib.md5(image_key.encode(), usedforsecurity=False).hexdigest(), 16)


def read_regions(path: Path) -> Iterator[RegionRecord]:
    """Read the records of a `.jsonl` or `.jsonl.gz` file. Raises `SourceError` with file and
    line.
    """
    yield from map(RegionRecord.from_json, read_rows(path))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the JSON objects of a `.jsonl` or `.jsonl.gz` file. Raises `SourceError` with file and
    line.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse_row(line, path, number)
    except (OSError, EOFError) as error:
        raise SourceError(f"cannot read {path}: {error}") from error


def _parse_row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}:{number}: not a JSON object ({error})") from error
    if not isinstance(row, dict):
        raise SourceError(f"{path}:{number}: not a JSON object (got {type(row).__name__})")
    return row


class ImageStore:
    """Reads images by key from tar shards and folders. Tars are indexed once and then read at an
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
            elif path.suffix.lower() in PICTURES:
                self._where.setdefault(path.stem, (path, 0, -1))

    def _index_tar(self, path: Path) -> None:
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile() and Path(member.name).suffix.lower() in PICTURES:
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

    def read_encoded(self, image_key: str) -> bytes:
        """Return the image's file as stored. Raises `SourceError` if it is absent."""
        if image_key not in self._where:
            raise SourceError(f"picture {image_key!r} is in none of the given folders or tars")
        path, offset, size = self._where[image_key]
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def read(self, image_key: str) -> npt.NDArray[np.uint8]:
        """Return the image as u8 [H, W, 3] RGB. Raises `SourceError` if it is absent or cannot be
        decoded.
        """
        try:
            encoded = self.read_encoded(image_key)
            picture = np.frombuffer(first_picture(encoded, measure(encoded)), np.uint8)
        except WireError as error:
            raise SourceError(f"picture {image_key!r}: {error}") from error
        # Masks lie over the pixels as they are stored, whichever way up a camera held them.
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(picture, flags)
        if image is None:
            where = self._where[image_key][0]
            raise SourceError(f"picture {image_key!r} in {where} cannot be decoded")
        return np.asarray(image, np.uint8)
