"""Reads prompt files: the regions to track, and their first frames.

JSON list of `{"frame": 0, "rid"?, "mask": {"size": [h, w], "counts": "…"} | "box": [x0, y0, x1, y1]
| "point": [x, y] | "text": "red mug", "label"?, "parent"?}`; with a text also `"standing"?` and
`"level"?`. `frame` counts the source's pictures from 0. COCO files and annotations, polygons and
label files of ultralytics (`.txt`) are read, too (`prompt_formats`).
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ureca.datatypes import Level, RegionSeed, TextPrompt
from ureca.errors import ConfigError, RegionError, SourceError, UrecaError
from ureca.node.decoding.bounded_files import read_file
from ureca.node.decoding.mask_decoder import decode_masks
from ureca.node.decoding.picture_files import is_tar, list_folder, list_tar, read_from_tar
from ureca.node.sources.prompt_formats import (
    is_foreign,
    name_fields,
    read_coco,
    read_foreign,
    read_labels,
)
from ureca.protocol.rle import encode
from ureca.protocol.wire import WirePrompt, WireRegion, from_wire_rle
from ureca.region_inputs import NormalizedRegion

MAX_PROMPT_BYTES = 16 << 20
MAX_PROMPTS = 4096
_log = logging.getLogger(__name__)

Prompt = RegionSeed | TextPrompt | NormalizedRegion
Prompts = Mapping[int, tuple[Prompt, ...]]
"""The regions to start and the texts to find, by the index of their frame."""


class _Prompt(WireRegion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry: a region and the frame that it is drawn on."""

    frame: int = 0
    text: str | None = None
    standing: bool = False
    level: Level | None = None


def load_prompts(path: Path | str) -> Prompts:
    """Read a prompt file. Raises `ConfigError` that names the entry and what is wrong with it."""
    try:
        data = read_file(Path(path), max_bytes=MAX_PROMPT_BYTES)
    except SourceError as error:
        raise ConfigError(f"no prompts: {error}") from error
    prompts: dict[int, list[Prompt]] = {}
    for number, (frame, one) in enumerate(_entries(Path(path), _text(Path(path), data))):
        if number >= MAX_PROMPTS:
            raise ConfigError(f"{path}: expected at most {MAX_PROMPTS} regions")
        prompts.setdefault(frame, []).append(one)
    return {frame: tuple(listed) for frame, listed in prompts.items()}


def _text(path: Path, data: bytes) -> str:
    """What editors of all systems write: UTF-8 with or without a byte-order mark, UTF-16."""
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text: {error}") from error


def _entries(path: Path, text: str) -> Iterator[tuple[int, Prompt]]:
    try:
        if path.suffix.lower() == ".txt":
            yield from read_labels(text)
            return
        content = msgspec.json.decode(text)
        if isinstance(content, dict) and "annotations" in content:
            yield from read_coco(content)
            return
    except RegionError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, list):
        raise ConfigError(
            f"{path}: expected a list of at most {MAX_PROMPTS} regions, or a COCO file with "
            "'annotations'"
        )
    for place, entry in enumerate(content):
        yield _read(entry, f"{path}: entry {place}")


def _read(entry: object, where: str) -> tuple[int, RegionSeed | TextPrompt]:
    try:
        frame, found = _read_foreign(entry) if is_foreign(entry) else _read_own(entry)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}; {name_fields()}") from error
    except UrecaError as error:
        raise ConfigError(f"{where}: {error}") from error
    if frame < 0:
        raise ConfigError(f"{where}: frame must be at least 0, got {frame}")
    return frame, found


def _read_own(entry: object) -> tuple[int, RegionSeed | TextPrompt]:
    prompt = msgspec.convert(entry, _Prompt)
    return prompt.frame, _text_of(prompt) or seed_of(prompt)


def _read_foreign(entry: Any) -> tuple[int, RegionSeed | TextPrompt]:
    return msgspec.convert(entry.get("frame", 0), int), read_foreign(entry)


def _text_of(prompt: _Prompt) -> TextPrompt | None:
    """The text of an entry; None for a region. Raises `RegionError` for an entry that is both."""
    if prompt.mask is not None and prompt.text is not None:
        raise RegionError("a prompt has exactly one of mask, box, point, text; got several")
    return WirePrompt(
        box=prompt.box,
        point=prompt.point,
        text=prompt.text,
        label=prompt.label,
        standing=prompt.standing,
        level=prompt.level,
    ).text_prompt()


def seed_of(region: WireRegion) -> RegionSeed:
    """The seed of a region whose picture is not known yet; masks and places are checked on the
    picture.
    """
    return RegionSeed(
        rid=region.rid,
        mask=None if region.mask is None else from_wire_rle(region.mask),
        box_xyxy_px=region.box,
        point_xy_px=region.point,
        label=region.label,
        parent=region.parent,
        more_points_xy_px=region.more_points,
        not_points_xy_px=region.not_points,
        polygons_xy_px=region.polygons,
    )


def first_frame_mask(clip: Path) -> Prompts:
    """The mask of a clip's first image, as in data sets: `masks/00000.png` beside
    `frames/00000.webp`, in a folder or tar. Empty if there is none.
    """
    stored = _stored_mask(clip)
    if stored is None:
        return {}
    try:
        masks = decode_masks(stored)
    except (SourceError, RegionError) as error:
        _log.warning("the mask of the first image of %s is not used: %s", clip, error)
        return {}
    names = {value: f"object-{value}" if len(masks) > 1 else "object" for value in masks}
    return {0: tuple(RegionSeed(rid=names[one], mask=encode(masks[one])) for one in masks)}


def _stored_mask(clip: Path) -> bytes | None:
    """The first mask of a clip; opening the source says what is wrong with it, if anything is."""
    try:
        if clip.is_dir():
            masks = list_folder(clip)[1]
            return read_file(masks[0]) if masks else None
        if not (clip.is_file() and is_tar(clip)):
            return None
        members = list_tar(clip)[1]
        return read_from_tar(clip, members[0]) if members else None
    except SourceError:
        return None
