"""CompositionCap (arXiv 2411.15411): masked entities with a text for each attribute.

Its archive was not at hand, so the form of its JSON is not known here; how it codes a mask is:
base64 of gzip of height x width bytes. This reads a JSON list with one object an entity:

    {"image": "003568437.jpg", "id": 7, "height": 683, "width": 1024, "mask": "H4sI...",
     "attributes": {"Color": "a red coat", "Body Pose/Gesture": ["standing"]},
     "caption": "a woman in a red coat ...", "split": "train"}

`attributes`, `caption` and `split` may be left out. A second file, `filename2oiid.json` as it is
published, gives pictures their Open Images ids, so that they are the same pictures elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from ureca.datatypes import Rle
from ureca.errors import RegionError, SourceError
from ureca.models.data.readers.core import (
    ImportJob,
    SourcePicture,
    SourceRegion,
    is_list,
    load_json,
    make_picture_key,
    parse_json,
)
from ureca.protocol import rle

MAX_MASK_CHARS = 16 << 20
_NAMES = (
    ("category", "category"),
    ("pose", "pose"),
    ("body", "body_shape"),
    ("facial", "expression"),
    ("expression", "expression"),
    ("skin", "skin"),
    ("hair", "hair"),
    ("cloth", "clothing"),
    ("age", "age"),
    ("location", "location"),
    ("interaction", "interaction"),
    ("colo", "colour"),
    ("material", "material"),
    ("shape", "shape"),
    ("angle", "viewing_angle"),
)
"""What a name of theirs begins a word with, and ours; the first that fits."""


class Entity(msgspec.Struct):
    """One masked entity."""

    image: str
    height: int
    width: int
    mask: str
    id: int | str = ""
    attributes: dict[str, str | list[str]] = {}
    caption: str = ""
    split: str = ""


def read(paths: Sequence[Path], job: ImportJob) -> Iterator[SourcePicture]:
    """Pictures with their entities. Raises `SourceError` unless a file is a list of entities."""
    rows: list[msgspec.Raw] = []
    ids: dict[str, str] = {}
    for path in paths:
        content = load_json(path, msgspec.Raw)
        if is_list(content):
            rows += parse_json(path, content, list[msgspec.Raw])
        else:
            ids |= parse_json(path, content, dict[str, str])
    if not rows:
        raise SourceError(f"expected a list of entities, got {', '.join(map(str, paths))}")
    groups: dict[tuple[str, str], list[tuple[int, Entity]]] = {}
    for number, row in enumerate(job.parse_rows(rows, Entity)):
        groups.setdefault((row.image, row.split), []).append((number, row))
    for (name, split), found in groups.items():
        known = f"{ids[name]}.jpg" if name in ids else name
        yield SourcePicture(
            key=make_picture_key("openimages" if name in ids else job.name, known),
            file=name,
            split=split,
            regions=tuple(_make_region(number, entity) for number, entity in found),
        )


def name_attribute(name: str) -> str:
    """Return our name of an attribute, or theirs in one word if we have none."""
    words = re.findall(r"[a-z]+", name.lower())
    for start, ours in _NAMES:
        if any(word.startswith(start) for word in words):
            return ours
    return "_".join(words)


def decode_mask(code: str, size: tuple[int, int], height: int, width: int) -> Rle:
    """Decode a mask of an entity whose file says `size` (h, w), for a picture of height x width.

    Raises `RegionError` for what is no mask of that size.
    """
    if size != (height, width) or height * width > rle.MAX_PIXELS:
        raise RegionError(f"expected a mask of {height} x {width}, got {size[0]} x {size[1]}")
    if len(code) > MAX_MASK_CHARS:
        raise RegionError(f"a mask of {len(code)} characters: at most {MAX_MASK_CHARS} are read")
    try:
        inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        pixels = inflate.decompress(base64.b64decode(code, validate=True), height * width + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise RegionError(f"not base64 of gzip: {error}") from None
    if len(pixels) != height * width:
        raise RegionError(f"expected {height * width} bytes, got {len(pixels)} or more")
    return rle.encode(np.frombuffer(pixels, np.uint8).reshape(height, width) > 0)


def _make_region(number: int, entity: Entity) -> SourceRegion:
    told: dict[str, list[str]] = {}
    for name, texts in entity.attributes.items():
        own = told.setdefault(name_attribute(name), [])
        own += [texts] if isinstance(texts, str) else texts
    return SourceRegion(
        region_id=str(entity.id if entity.id != "" else number),
        draw=partial(decode_mask, entity.mask, (entity.height, entity.width)),
        mask_source="gt:compositioncap",
        long=(entity.caption,) if entity.caption else (),
        attributes={name: tuple(texts) for name, texts in told.items() if name},
    )
