"""One line of `images-*.jsonl.gz`: an image's record without its regions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ureca.errors import SourceError
from ureca.models.data.regions import read_rows


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture: where it is stored and comes from, and captions of the whole of it."""

    image_key: str
    shard: str
    source: str
    width: int
    height: int
    photo_id: str = ""
    """The photograph's number at its origin (Flickr), the same in every source that has it."""
    captions: tuple[str, ...] = ()
    split: str = ""
    license: str = ""
    all_objects_annotated: bool = False
    """Every object of the source's label set has a region."""

    @classmethod
    def from_json(cls, row: Any) -> ImageRecord:  # whatever the JSON line held
        """Read one line. Raises `SourceError` naming the picture and the missing field."""
        try:
            return cls(
                image_key=str(row["image_key"]),
                shard=str(row.get("shard") or ""),
                source=str(row.get("source") or ""),
                width=int(row["width"]),
                height=int(row["height"]),
                photo_id=str(row.get("photo_id") or ""),
                captions=tuple(map(str, row.get("captions") or ())),
                split=str(row.get("split") or ""),
                license=str(row.get("license") or ""),
                all_objects_annotated=bool(row.get("all_objects_annotated")),
            )
        except (KeyError, TypeError, ValueError) as error:
            name = row.get("image_key", "?")
            raise SourceError(
                f"picture {name!r}: {error!r}; expected image_key, width, height"
            ) from error

    def to_json(self) -> dict[str, Any]:  # JSON
        """The line that `from_json` reads back as this record."""
        return {**asdict(self), "captions": list(self.captions)}


def read_images(path: Path) -> Iterator[ImageRecord]:
    """Records of a `.jsonl` or `.jsonl.gz` file. Raises `SourceError` naming file and line."""
    yield from map(ImageRecord.from_json, read_rows(path))
