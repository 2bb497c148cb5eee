"""RefCOCOm (arXiv 2312.08007): expressions of parts and objects, in the form that CRIS prepares.

Its authors say that they process their data as CRIS does: for each split a JSON list with
`img_name`, `segment_id`, `bbox`, `cat` and `sentences`, and a folder with one PNG for each segment,
white where it is. How the published files tell parts from objects is not known here: a file with
the word `part` in its name, or in a folder `part`, holds parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import msgspec
import numpy as np

from ureca.datatypes import Rle
from ureca.errors import RegionError, SourceError, WireError
from ureca.models.data.readers.core import (
    MAX_PICTURE_BYTES,
    ImportJob,
    Rejected,
    SourcePicture,
    SourceQuery,
    SourceRegion,
    join_inside,
    load_json,
    make_picture_key,
    read_file,
)
from ureca.models.data.readers.refcoco import Sentence
from ureca.protocol import rle
from ureca.protocol.image_header import measure

_SPLITS = ("train", "val", "testA", "testB", "test")


class CrisRow(msgspec.Struct):
    """One segment and what is said of it."""

    img_name: str
    segment_id: int | str
    sentences: list[Sentence]


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures with their segments. Raises `SourceError` unless there are JSON files and a folder
    of masks.
    """
    files, folders = [p for p in paths if p.is_file()], [p for p in paths if p.is_dir()]
    if not files or not folders:
        raise SourceError(
            "expected the JSON files of the splits (val.json, ...) and the folder of their masks, "
            f"got {', '.join(map(str, paths))}"
        )
    groups: dict[tuple[str, str], list[tuple[Path, CrisRow]]] = {}
    for path in files:
        for row in job.parse_rows(load_json(path, list[msgspec.Raw]), CrisRow):
            groups.setdefault((row.img_name, _split(path)), []).append((path, row))
    for (name, split), rows in groups.items():
        named = [(_region_id(path, row), path, row) for path, row in rows]
        yield SourcePicture(
            key=make_picture_key(job.name, name),
            file=name,
            split=split,
            regions=tuple(_region(number, path, row, folders) for number, path, row in named),
            queries=tuple(
                SourceQuery(sentence.sent or sentence.raw, (number,))
                for number, _, row in named
                for sentence in row.sentences
            ),
        )


def _split(path: Path) -> str:
    """The split in a file's name; "" when it names none."""
    found = [split for split in _SPLITS if split.lower() in path.stem.lower()]
    return max(found, key=len) if found else ""


def is_part(path: Path) -> bool:
    """Whether a file holds parts: by its own name ("val_part.json"), or in a folder "part"."""
    return _names_parts(path.stem) or path.parent.name.lower() in {"part", "parts"}


def _names_parts(name: str) -> bool:
    return bool({"part", "parts"} & set(re.split(r"[\W_]+", name.lower())))


def _region_id(path: Path, row: CrisRow) -> str:
    """Parts and objects are numbered apart."""
    return f"part{row.segment_id}" if is_part(path) else str(row.segment_id)


def _region(number: str, path: Path, row: CrisRow, folders: Sequence[Path]) -> SourceRegion:
    return SourceRegion(
        region_id=number,
        draw=partial(_mask, f"{row.segment_id}.png", _fitting(folders, parts=is_part(path))),
        mask_source="gt:refcocom",
        texts=tuple(sentence.sent or sentence.raw for sentence in row.sentences),
        part=is_part(path),
    )


def _fitting(folders: Sequence[Path], *, parts: bool) -> list[Path]:
    """The folders of masks for parts or for objects; all of them where none is named so."""
    named = [folder for folder in folders if _names_parts(folder.name) == parts]
    return named or list(folders)


def _mask(name: str, folders: Sequence[Path], height: int, width: int) -> Rle:
    """The PNG of a segment. Raises `RegionError` when it is missing, broken or of another size."""
    try:
        places = [place for folder in folders if (place := join_inside(folder, name)).is_file()]
        if not places:
            raise RegionError(f"no {name} in {', '.join(map(str, folders))}")
        encoded = read_file(places[0], MAX_PICTURE_BYTES)
        facts = measure(encoded)
        if (facts.kind, facts.width, facts.height) != ("png", width, height):
            raise RegionError(f"expected {name} of {width}x{height} pixels")
    except (Rejected, SourceError, WireError) as error:
        raise RegionError(f"{name}: {error}") from None
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise RegionError(f"{name} cannot be decoded")
    return rle.encode(np.asarray(pixels > 0, np.bool_))
