"""Checks a data set for faults, record by record and across its folders.

A fault makes training or evaluation wrong (a mask that cannot be decoded, an image in two splits).
A note is information (texts that the captioner will cut). All functions here are pure; reading and
printing are elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ureca.datatypes import Rle
from ureca.errors import RegionError
from ureca.models.data.images import ImageRecord
from ureca.models.data.regions import RegionRecord, hash_image_key
from ureca.protocol import rle

Kind = Literal[
    "unreadable record",
    "bad mask",
    "empty mask",
    "box outside the picture",
    "mask outside its box",
    "empty text",
    "duplicate region",
    "duplicate picture",
    "missing picture",
    "undecodable picture",
    "wrong picture size",
    "leak between splits",
    "leak of a photograph",
    "unknown characters",
    "too long",
    "long repeats short",
]
NOTES: frozenset[Kind] = frozenset({"unknown characters", "too long", "long repeats short"})
"""Kinds that do not make a data set faulty."""

_BOX_SLACK_PX = 2.0
"""Boxes are rounded, and masks were resampled with their pictures."""


@dataclass(frozen=True, slots=True)
class DataFinding:
    """One finding: its kind, the region, image or file, and details."""

    kind: Kind
    where: str
    what: str

    @property
    def is_fault(self) -> bool:
        """Whether it makes the data set wrong."""
        return self.kind not in NOTES

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


def check_record(record: RegionRecord) -> Iterator[DataFinding]:
    """Return faults of one region alone: mask code, emptiness, box, texts."""
    name = record.region_id
    try:
        runs = rle.check(Rle(size=(record.height, record.width), counts=record.counts))
    except RegionError as error:
        yield DataFinding("bad mask", name, str(error))
        return
    x, y, width, height = record.box_xywh_px
    if not (width > 0 and height > 0 and x > -1 and y > -1) or (
        x + width > record.width + 1 or y + height > record.height + 1
    ):
        what = f"[{x:g}, {y:g}, {width:g}, {height:g}] in {record.width}x{record.height}"
        yield DataFinding("box outside the picture", name, what)
    tight = compute_tight_box(runs, record.height)
    if tight is None:
        yield DataFinding("empty mask", name, "no pixel is set")
    elif _is_outside(tight, (x, y, x + width, y + height)):
        what = f"mask {list(tight)} against box {[x, y, x + width, y + height]} (x0 y0 x1 y1)"
        yield DataFinding("mask outside its box", name, what)
    for text in (*record.short, *record.long):
        if not text.strip() or not text.isprintable():
            yield DataFinding(
                "empty text", name, f"{text!r} says nothing or holds control characters"
            )
    if set(record.long) & set(record.short):
        yield DataFinding("long repeats short", name, repr(record.long[0]))


def _is_outside(tight: tuple[int, int, int, int], box: tuple[float, float, float, float]) -> bool:
    low = any(t < b - _BOX_SLACK_PX for t, b in zip(tight[:2], box[:2], strict=True))
    return low or any(t > b + _BOX_SLACK_PX for t, b in zip(tight[2:], box[2:], strict=True))


def compute_tight_box(
    runs: np.typing.NDArray[np.int64], height: int
) -> tuple[int, int, int, int] | None:
    """Return x0, y0, x1, y1 (exclusive) of a mask from its column-major run lengths; None if
    empty.
    """
    ends = np.cumsum(runs)
    starts, ends = (ends - runs)[1::2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts] - 1
    if not len(starts):
        return None
    # A run over several columns reaches the bottom of one and the top of the next.
    crossing = bool((starts // height != ends // height).any())
    top = 0 if crossing else int((starts % height).min())
    bottom = height if crossing else int((ends % height).max()) + 1
    return int(starts[0] // height), top, int(ends[-1] // height) + 1, bottom


def check_ids(named: Iterable[str], kind: Kind) -> Iterator[DataFinding]:
    """Return repeated ids."""
    seen: set[str] = set()
    for name in named:
        if name in seen:
            yield DataFinding(kind, name, "comes more than once")
        seen.add(name)


def check_listed(images: Iterable[ImageRecord]) -> Iterator[DataFinding]:
    """Return images that are listed more than once. One photograph under one key in two sources is
    none: COCO's images are in all of its data sets.
    """
    seen: dict[str, ImageRecord] = {}
    for image in images:
        other = seen.setdefault(image.image_key, image)
        same = (image.photo_id, image.width, image.height)
        if other is not image and (
            other.source == image.source or (other.photo_id, other.width, other.height) != same
        ):
            yield DataFinding("duplicate picture", image.image_key, "comes more than once")


def check_splits(rows: Iterable[tuple[str, str]]) -> Iterator[DataFinding]:
    """Return images (key, split) that are in more than one split."""
    splits: dict[str, set[str]] = defaultdict(set)
    for key, split in rows:
        splits[key].add(split)
    for key, found in splits.items():
        if len(found) > 1:
            yield DataFinding("leak between splits", key, f"is in {sorted(found)}")


def check_photographs(images: Sequence[ImageRecord], every: int) -> Iterator[DataFinding]:
    """Return photographs that are held out under one key and used for training under another.

    `every` is the divisor of the hash split. The same photograph comes in Flickr and in COCO.
    """
    keys: dict[str, set[str]] = defaultdict(set)
    for image in images:
        if image.photo_id:
            keys[image.photo_id].add(image.image_key)
    for photo, found in keys.items():
        if len({hash_image_key(key) % every == 0 for key in found}) > 1:
            yield DataFinding(
                "leak of a photograph", photo, f"held out in part only: {sorted(found)}"
            )


def check_texts(
    records: Iterable[RegionRecord], encode: Callable[[str], Sequence[int]], max_tokens: int
) -> Iterator[DataFinding]:
    """Return texts with characters that `encode` drops, and texts that the captioner would cut.

    `max_tokens` counts the end token.
    """
    known: dict[str, bool] = {" ": True}
    done: set[str] = set()
    for record in records:
        for text in (*record.short, *record.long):
            if text in done:
                continue
            done.add(text)
            known |= {c: bool(encode(c)) for c in set(text) - known.keys()}
            unknown = sorted({c for c in text if not known[c]})
            if unknown:
                yield DataFinding("unknown characters", record.region_id, f"{unknown} in {text!r}")
            tokens = len(encode(text)) + 1
            if tokens > max_tokens:
                what = f"{tokens} tokens, {max_tokens} are kept: {text!r}"
                yield DataFinding("too long", record.region_id, what)
