"""Flickr30k Entities: `Annotations/*.xml`, `Sentences/*.txt`, optionally `train|val|test.txt`.

An entity's boxes make one region; the phrases that people used for it in five sentences are its
words. Pronouns are no captions and are left out; the sentences themselves describe the picture.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ureca.errors import SourceError
from ureca.models.data.readers.core import (
    ImportJob,
    Rejected,
    SourcePicture,
    SourceRegion,
    read_file,
)
from ureca.models.data.readers.masks import Box, fill_boxes

_MAX_BYTES = 4 << 20
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/\w+)+) ([^\]]*)\]")
_TYPES_OF_PARTS = {"clothing", "bodyparts"}
_NOT_VISUAL = "0"
_PRONOUNS = frozenset(
    [
        *("he", "she", "it", "they", "him", "her", "them", "his", "hers", "its", "their", "theirs"),
        *("this", "that", "these", "those", "one", "ones", "other", "others", "another", "each"),
        *("both", "who", "which", "something", "someone", "himself", "herself", "itself"),
        "themselves",
    ]
)


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures with their entities. Raises `SourceError` for a folder without Annotations."""
    for root in paths:
        files = sorted((root / "Annotations").glob("*.xml"))
        if not files:
            raise SourceError(f"{root} has no Annotations/*.xml: expected Flickr30kEntities")
        splits = dict(_read_splits(root))
        for path in files:
            try:
                boxes, size = _read_boxes(path)
                words, sentences = _read_sentences(root / "Sentences" / f"{path.stem}.txt")
            except (Rejected, SourceError):
                job.reject("malformed")
                continue
            yield SourcePicture(
                key=f"{job.name}_{path.stem}",
                file=f"{path.stem}.jpg",
                size=size,
                split=splits.get(path.stem, "none" if splits else ""),
                photo_id=path.stem,
                captions=sentences,
                regions=tuple(_make_regions(path.stem, boxes, words, job)),
            )


def _read_splits(root: Path) -> Iterator[tuple[str, str]]:
    for name in ("train", "val", "test"):
        path = root / f"{name}.txt"
        if path.is_file():
            text = read_file(path, _MAX_BYTES).decode("utf8", "replace")
            yield from ((stem, name) for stem in text.split())


def _make_regions(
    stem: str, boxes: dict[str, list[Box]], words: dict[str, _Entity], job: ImportJob
) -> Iterator[SourceRegion]:
    for number, entity in words.items():
        if number not in boxes:
            job.reject("no box")
            continue
        yield SourceRegion(
            region_id=f"{stem}_{number}",
            draw=partial(fill_boxes, boxes[number]),
            mask_source="box",
            texts=tuple(p for p in entity.phrases if p not in _PRONOUNS),
            types=tuple(sorted(entity.types)),
            part=bool(entity.types & _TYPES_OF_PARTS),
            stuff="scene" in entity.types,
            group=len(boxes[number]) > 1,
        )


class _Entity:
    """What five sentences call one entity."""

    def __init__(self) -> None:
        self.phrases: list[str] = []
        self.types: set[str] = set()


def _read_sentences(path: Path) -> tuple[dict[str, _Entity], tuple[str, ...]]:
    """Entities by number, and the plain sentences."""
    found: dict[str, _Entity] = {}
    lines = read_file(path, _MAX_BYTES).decode("utf8", "replace").splitlines()
    for line in lines:
        for number, types, phrase in _PHRASE.findall(line):
            if number != _NOT_VISUAL:
                entity = found.setdefault(number, _Entity())
                entity.phrases.append(" ".join(phrase.lower().split()))
                entity.types |= set(types.strip("/").split("/"))
    return found, tuple(_PHRASE.sub(r"\3", line) for line in lines if line.strip())


def _read_boxes(path: Path) -> tuple[dict[str, list[Box]], tuple[int, int]]:
    """Boxes by entity, and the picture's width and height. Corners count from 1, both inside."""
    data = read_file(path, _MAX_BYTES)
    if b"<!" in data:  # a document type may define entities that unpack to gigabytes
        raise Rejected("malformed")
    try:
        root = ET.fromstring(data)  # noqa: S314  (no entities)
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
        found: dict[str, list[Box]] = {}
        for each in root.iter("object"):
            corners = each.find("bndbox")
            if corners is not None:
                x0, y0, x1, y1 = (
                    float(corners.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax")
                )
                for name in each.iter("name"):
                    found.setdefault(name.text or "", []).append((x0 - 1, y0 - 1, x1, y1))
    except (ET.ParseError, ValueError) as error:
        raise Rejected("malformed") from error
    return found, size
