"""Writes the output of a run: a file per image during the run, then rows, counts and contact
sheets.
"""

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
from ureca.models.data.contact_sheet import choose_regions, write_sheets
from ureca.models.data.regions import ImageStore, RegionRecord

ROWS, CONVERSATIONS, REPORT = "regions-curated.jsonl.gz", "conversations.jsonl", "report.json"
_INSTRUCTION = {"short": "Say in one sentence what this is.", "long": "Describe this."}


def make_picture_path(out: Path, image_key: str) -> Path:
    """Return the path of a finished image."""
    return out / "pictures" / f"{quote(image_key, safe='')}.json"


def save_picture(out: Path, picture: CuratedPicture) -> None:
    """Write a finished image. The file appears complete or not at all."""
    path = make_picture_path(out, picture.image_key)
    draft = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(picture))
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}; make room and start again") from error


def read_finished(out: Path, keys: Iterable[str]) -> Iterator[CuratedPicture]:
    """Read the finished images of `keys`, in their order."""
    for key in keys:
        path = make_picture_path(out, key)
        if path.is_file():
            try:
                yield msgspec.json.decode(path.read_bytes(), type=CuratedPicture)
            except msgspec.DecodeError as error:
                raise SourceError(f"{path} is damaged ({error}): delete it and go on") from error


def count_regions(pictures: Sequence[CuratedPicture]) -> dict[str, Any]:
    """Return regions in = kept + left out by reason, and figures of the kept ones."""
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


def write_rows(out: Path, pictures: Sequence[CuratedPicture]) -> None:
    """Write the rows of all kept regions, in two forms: ours (docs/data.md) and URECA's
    conversations (a row per caption, short or long).
    """
    with (
        AtomicFile(out / ROWS) as path,
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as rows,
    ):
        for picture, region in _list_kept(pictures):
            rows.write(json.dumps(_make_row(picture, region)).encode() + b"\n")
    with AtomicFile(out / CONVERSATIONS) as path, path.open("w", encoding="utf8") as lines:
        for number, (picture, region) in enumerate(_list_kept(pictures)):
            lines.write(json.dumps(_make_conversation(number, picture, region)) + "\n")


def write_contact_sheets(
    out: Path, pictures: Sequence[CuratedPicture], store: ImageStore, number: int
) -> list[Path]:
    """Write contact sheets of random regions with their captions."""
    rows = [_make_row(picture, region) for picture, region in _list_kept(pictures)]
    records = [RegionRecord.from_json(row) for row in rows]
    return list(write_sheets(choose_regions(records, number, 0), store, out / "sheets"))


class AtomicFile:
    """A file that gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path, self._draft = path, path.with_name(path.name + ".part")

    def __enter__(self) -> Path:
        return self._draft

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._draft.replace(self._path)
        else:
            self._draft.unlink(missing_ok=True)


def _list_kept(
    pictures: Iterable[CuratedPicture],
) -> Iterator[tuple[CuratedPicture, CuratedRegion]]:
    return ((picture, region) for picture in pictures for region in picture.kept)


def _make_row(picture: CuratedPicture, region: CuratedRegion) -> dict[str, Any]:
    return {
        "region_id": region.region_id,
        "image_key": picture.image_key,
        "bbox": list(region.box_xywh_px),
        "rle": {"size": [picture.height, picture.width], "counts": region.counts},
        "parent": region.parent,
        "part": bool(region.parent),
        **({"category": region.category} if region.category else {}),
        **({"stuff": True} if region.stuff else {}),
        "expressions": [region.short] if region.short else [],
        "expressions_long": [region.caption],
        "expr_source": "curated",
        "annotator": picture.annotator,
    }


def _make_conversation(
    number: int, picture: CuratedPicture, region: CuratedRegion
) -> dict[str, Any]:
    """Return URECA's row, with the refined caption, which its own exporter omits."""
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
    with AtomicFile(out / REPORT) as path:
        path.write_text(json.dumps(report, indent=1) + "\n", "utf8")
