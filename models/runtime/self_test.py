"""The self-test that travels with a bundle: a picture, its regions, and what was said of them.

`ureca export` lets the finished bundle caption a picture of our own worlds and keeps the captions
beside it. Whoever opens the bundle later asks again: another runtime version, another processor or
a driver that computes something else is found out at start-up, not by a robot.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import cv2
import msgspec
import numpy as np

from ureca.datatypes import Image, RegionInput, Rle, RowDone, Style
from ureca.engine import Engine
from ureca.errors import BundleError, RegionError
from ureca.protocol import rle

GOLDEN, GOLDEN_PICTURE = "golden.json", "golden.png"
MIN_AGREEMENT = 0.8
"""Words that must be the same; below 1 because int8 activations round differently elsewhere."""


class GoldenRegion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mask as compressed RLE of `size` (h, w), how it is asked for, and the caption it got."""

    size: tuple[int, int]
    counts: str
    style: Style
    text: str = ""


def read_regions(path: Path) -> tuple[GoldenRegion, ...]:
    """Raises `BundleError` for a file that is no list of regions."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[GoldenRegion, ...])
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(f"{path} holds no regions for the self-test: {error}") from error


def read_picture(path: Path) -> Image:
    """The picture u8 [H, W, 3] RGB. Raises `BundleError`."""
    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if found is None:
        raise BundleError(f"{path} is not a picture: export the checkpoint again")
    return np.ascontiguousarray(found[:, :, ::-1])


def say(engine: Engine, image: Image, regions: Sequence[GoldenRegion]) -> list[str]:
    """What the engine says of the regions now, in their order. Raises `BundleError`."""
    try:
        inputs = [RegionInput(rle.decode(Rle(r.size, r.counts)), style=r.style) for r in regions]
        stream = engine.caption(engine.encode(image), inputs)
    except RegionError as error:
        raise BundleError(f"the self-test's regions do not fit its picture: {error}") from error
    texts = {event.row: event.text for event in stream if isinstance(event, RowDone)}
    return [texts[row] for row in range(len(regions))]


def self_test(engine: Engine, folder: Path) -> float:
    """Share of words that are as they were at export.

    Raises `BundleError` below `MIN_AGREEMENT`, naming the first caption that changed.
    """
    regions = read_regions(folder / GOLDEN)
    now = say(engine, read_picture(folder / GOLDEN_PICTURE), regions)
    agreed = agreement([region.text for region in regions], now)
    if agreed < MIN_AGREEMENT:
        was, said = next((r.text, t) for r, t in zip(regions, now, strict=True) if r.text != t)
        raise BundleError(
            f"the bundle {folder} no longer says what it said when it was exported: {agreed:.0%} "
            f"of the words agree, expected {MIN_AGREEMENT:.0%} ({was!r} became {said!r}). Compare "
            f"it with `ureca verify {folder}`, and export its checkpoint again on this machine: "
            f"ureca export CHECKPOINT -o {folder}"
        )
    return agreed


def agreement(before: Sequence[str], now: Sequence[str]) -> float:
    """Equal words at equal places, of all places in either; 1 when nothing was said at all."""
    pairs = [p for a, b in zip(before, now, strict=True) for p in zip_longest(a.split(), b.split())]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 1.0
