"""What a run leaves: a file per picture while it goes, then rows, counts and pages to look at."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from ureca.errors import SourceError
from ureca.models.curation.errors import OutputError
from ureca.models.curation.records import REASONS, CuratedPicture, CuratedRegion
from ureca.models.data.contact_sheet import choose, write_sheets
from ureca.models.data.regions import ImageStore, RegionRecord

ROWS, CONVERSATIONS, REPORT = "regions-curated.jsonl.gz", "conversations.jsonl", "report.json"
_INSTRUCTION = {"short": "Say in one sentence what this is.", "long": "Describe this."}


def picture_path(out: Path, image_key: str) -> Path:
    """Where a finished picture is kept."""
    return out / "pictures" / f"{quote(image_key, safe='')}.json"


def save(out: Path, picture: CuratedPicture) -> None:
    """Write a finished picture, whole or not at all."""
    path = picture_path(out, picture.image_key)
    draft = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(picture))
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}; make room and start again") from error


def finished(out: Path, keys: Iterable[str]) -> Iterator[CuratedPicture]:
    """Finished pictures of `keys`, in their order."""
    for key in keys:
        path = picture_path(out, key)
        if path.is_file():
            try:
                yield msgspec.json.decode(path.read_bytes(), type=CuratedPicture)
            except msgspec.DecodeError as error:
                raise SourceError(f"{path} is damaged ({error}): delete it and go on") from error


def counts(pictures: Sequence[CuratedPicture]) -> dict[str, Any]:
    """Regions in = kept + left out by reason; and what happened to those that were kept."""
    regions = [region for picture in pictures for region in picture.regions]
    kept = [region for region in regions if region.left_out is None]
    ends = Counter(region.left_out for region in regions)
    return {
        "pictures": len(pictures),
        "regions_in": len(regions),
        "kept": len(kept),
        "left_out": {reason: ends[reason] for reason in REASONS},
        "main": sum(not region.parent for region in kept),
        "parts": sum(bool(region.parent) for region in kept),
        "depth": dict(sorted(Counter(str(region.depth) for region in kept).items())),
        "with_similar": sum(bool(region.similar) for region in kept),
        "refined": sum(bool(region.refined) for region in kept),
        "long_from_parts": sum(region.long != region.short for region in kept),
    }


def publish(out: Path, pictures: Sequence[CuratedPicture]) -> None:
    """Write the rows of all regions that were kept, in two forms: ours (docs/data.md) and URECA's
    conversations (a row per caption, short or long).
    """
    with (
        _whole(out / ROWS) as path,
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as rows,
    ):
        for picture, region in _kept(pictures):
            rows.write(json.dumps(_row(picture, region)).encode() + b"\n")
    with _whole(out / CONVERSATIONS) as path, path.open("w", encoding="utf8") as lines:
        for number, (picture, region) in enumerate(_kept(pictures)):
            lines.write(json.dumps(_conversation(number, picture, region)) + "\n")


def sheets(
    out: Path, pictures: Sequence[CuratedPicture], store: ImageStore, number: int
) -> list[Path]:
    """Contact sheets of random regions with their words."""
    rows = [_row(picture, region) for picture, region in _kept(pictures)]
    records = [RegionRecord.from_json(row) for row in rows]
    return list(write_sheets(choose(records, number, 0), store, out / "sheets"))


class _whole:  # noqa: N801  (reads as a phrase)
    """A draft that takes its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path, self._draft = path, path.with_name(path.name + ".part")

    def __enter__(self) -> Path:
        return self._draft

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._draft.replace(self._path)
        else:
            self._draft.unlink(missing_ok=True)


def _kept(pictures: Iterable[CuratedPicture]) -> Iterator[tuple[CuratedPicture, CuratedRegion]]:
    return ((picture, region) for picture in pictures for region in picture.kept)


def _row(picture: CuratedPicture, region: CuratedRegion) -> dict[str, Any]:
    return {
        "region_id": region.region_id,
        "image_key": picture.image_key,
        "bbox": list(region.box_xywh_px),
        "rle": {"size": [picture.height, picture.width], "counts": region.counts},
        "parent": region.parent,
        "part": bool(region.parent),
        "expressions": [region.short],
        "expressions_long": [region.caption],
        "expr_source": "curated",
        "annotator": picture.annotator,
    }


def _conversation(number: int, picture: CuratedPicture, region: CuratedRegion) -> dict[str, Any]:
    """URECA's row: the refined words, which its own exporter leaves behind."""
    kind = "short" if region.caption == region.short else "long"
    return {
        "id": number,
        "image": picture.image_key,
        "mask_id": region.region_id,
        "conversations": [
            {"from": "human", "value": f"<image>\n<mask>\n{_INSTRUCTION[kind]}"},
            {"from": "gpt", "value": region.caption},
        ],
    }


def write_report(out: Path, report: dict[str, Any]) -> None:
    """`report.json`."""
    with _whole(out / REPORT) as path:
        path.write_text(json.dumps(report, indent=1) + "\n", "utf8")
