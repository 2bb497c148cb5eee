"""The self-test of a bundle: an image, its regions, and their captions at export.

`ureca export` captions an image of our synthetic worlds with the finished bundle and stores the
captions. Opening the bundle later repeats this. Another runtime version, another processor or a
faulty driver that computes something else is then detected at start-up, before a robot uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import cv2
import msgspec
import numpy as np

from ureca.datatypes import Image, RegionInput, Rle, RowDone, Style
from ureca.engine import EncodedFrame, Engine
from ureca.errors import BundleError, RegionError
from ureca.protocol import rle

GOLDEN, GOLDEN_PICTURE = "golden.json", "golden.png"
MIN_AGREEMENT = 0.8
"""Share of words that must be equal. Below 1, because int8 activations round differently on other
machines.
"""


class GoldenRegion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mask as compressed RLE of `size` (h, w), the caption style, and the caption at export."""

    size: tuple[int, int]
    counts: str
    style: Style
    text: str = ""


def read_regions(path: Path) -> tuple[GoldenRegion, ...]:
    """Read the regions. Raises `BundleError` for a file that is not a list of regions."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[GoldenRegion, ...])
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise BundleError(f"{path} holds no regions for the self-test: {error}") from error


def read_picture(path: Path) -> Image:
    """Read the image u8 [H, W, 3] RGB. Raises `BundleError`."""
    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if found is None:
        raise BundleError(f"{path}is not an image: export the checkpoint again")
    return np.ascontiguousarray(found[:, :, ::-1])


def run_captions(engine: Engine, image: Image, regions: Sequence[GoldenRegion]) -> list[str]:
    """Caption the regions now, in their order. Raises `BundleError`."""
    try:
        inputs = [RegionInput(rle.decode(Rle(r.size, r.counts)), style=r.style) for r in regions]
        frame, size = engine.encode(image), engine.info.max_regions
        batches = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        return [text for batch in batches for text in _caption_batch(engine, frame, batch)]
    except RegionError as error:
        raise BundleError(f"the self-test's regions do not fit its image: {error}") from error


def _caption_batch(engine: Engine, frame: EncodedFrame, inputs: list[RegionInput]) -> list[str]:
    stream = engine.caption(frame, inputs)
    texts = {event.row: event.text for event in stream if isinstance(event, RowDone)}
    return [texts[row] for row in range(len(inputs))]


def run_self_test(engine: Engine, folder: Path) -> float:
    """Return the share of words that equal those at export.

    Raises `BundleError` below `MIN_AGREEMENT`, with the first caption that changed.
    """
    regions = read_regions(folder / GOLDEN)
    now = run_captions(engine, read_picture(folder / GOLDEN_PICTURE), regions)
    agreed = measure_word_agreement([region.text for region in regions], now)
    if agreed < MIN_AGREEMENT:
        was, said = next((r.text, t) for r, t in zip(regions, now, strict=True) if r.text != t)
        raise BundleError(
            f"the bundle {folder} no longer says what it said when it was exported: {agreed:.0%} "
            f"of the words agree, expected {MIN_AGREEMENT:.0%} ({was!r} became {said!r}). Compare "
            f"it with `ureca verify {folder}`, and export its checkpoint again on this machine: "
            f"ureca export CHECKPOINT -o {folder}"
        )
    return agreed


def measure_word_agreement(before: Sequence[str], now: Sequence[str]) -> float:
    """Return the equal words at equal positions, divided by all positions; 1 if both are empty."""
    pairs = [p for a, b in zip(before, now, strict=True) for p in zip_longest(a.split(), b.split())]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 1.0
