"""URECA's captions (JSON lines) over SA-1B's pictures and masks (`sa_*.jpg` beside `sa_*.json`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ureca.errors import SourceError
from ureca.models.data.readers.core import (
    MAX_FILE_BYTES,
    ImportJob,
    SourcePicture,
    SourceRegion,
    load_json,
    read_file,
)
from ureca.models.data.readers.masks import decode_coco_mask


class ConversationTurn(msgspec.Struct):
    """What one side says."""

    speaker: str = msgspec.field(name="from")
    value: str


class Sa1bCaption(msgspec.Struct):
    """One caption of one mask."""

    image: str
    mask_id: str | int
    conversations: list[ConversationTurn]


class Size(msgspec.Struct):
    """Of SA-1B's picture."""

    width: int
    height: int
    file_name: str = ""


class Sa1bAnnotation(msgspec.Struct):
    """One of SA-1B's masks."""

    id: int | str
    segmentation: Any


class Masks(msgspec.Struct):
    """SA-1B's file for a picture."""

    image: Size
    annotations: list[msgspec.Raw]


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures with their captioned masks; captions of one mask in several rows are joined.

    A JSON lines file with "test" in its name is the split `test`, as in the official loader.
    """
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if path.is_file()]
    if not files or not folders:
        raise SourceError(
            "expected URECA's .jsonl and the folder of SA-1B's sa_*.json and sa_*.jpg"
        )
    places = {path.stem: path for folder in folders for path in sorted(folder.rglob("sa_*.json"))}
    for path in files:
        split = "test" if "test" in path.stem else "train"
        for stem, captions in _read_captions(path, job).items():
            if stem not in places:
                job.reject("no such picture", len(captions))
                continue
            yield from _make_picture(places[stem], captions, split, job)


def _read_captions(path: Path, job: ImportJob) -> dict[str, dict[str, list[str]]]:
    """Captions by picture and mask."""
    found: dict[str, dict[str, list[str]]] = {}
    lines = read_file(path, MAX_FILE_BYTES).splitlines()
    for row in job.parse_rows((msgspec.Raw(line) for line in lines if line.strip()), Sa1bCaption):
        said = [turn.value for turn in row.conversations if turn.speaker == "gpt"]
        masks = found.setdefault(row.image, {})
        masks.setdefault(str(row.mask_id), []).extend(said[-1:])
    return found


def _make_picture(
    path: Path, captions: dict[str, list[str]], split: str, job: ImportJob
) -> Iterator[SourcePicture]:
    try:
        file = load_json(path, Masks)
    except SourceError:
        job.reject("malformed", len(captions))
        return
    masks = {
        str(row.id): row.segmentation for row in job.parse_rows(file.annotations, Sa1bAnnotation)
    }
    job.reject("no such mask", sum(number not in masks for number in captions))
    yield SourcePicture(
        key=path.stem,
        file=file.image.file_name or f"{path.stem}.jpg",
        folder=path.parent,
        size=(file.image.width, file.image.height),
        split=split,
        regions=tuple(
            SourceRegion(
                region_id=f"{path.stem.removeprefix('sa_')}_{number}",
                draw=partial(decode_coco_mask, masks[number]),
                mask_source="pseudo:sa1b",
                long=tuple(said),
                expr_source="machine",
            )
            for number, said in captions.items()
            if number in masks
        ),
    )
