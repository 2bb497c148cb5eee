"""Provides images with regions on which a bundle is compared with its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask, Rle, Style
from ureca.errors import RegionError, SourceError
from ureca.models.config import VisionConfig
from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore, RegionRecord, read_regions
from ureca.models.preprocess import choose_grid, compute_box_norm, make_mask_tiles, make_pixel_tiles
from ureca.models.tokenizer import Tokenizer
from ureca.protocol import rle

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_PER_PICTURE = 8


@dataclass(frozen=True, slots=True)
class ParityCase:
    """One image u8 [H, W, 3], masks bool [H, W] of some regions, the caption style of each region,
    and people's captions (empty where there are none).
    """

    image: Image
    masks: tuple[Mask, ...]
    styles: tuple[Style, ...]
    references: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class CaseArrays:
    """A case as network input. Both sides of a comparison use the same arrays.

    pixels f32 [T, 3, S, S], masks f32 [N, T, M, M], boxes f32 [N, 4], start_ids i64 [N, 1].
    """

    pixels: F32
    masks: F32
    boxes: F32
    start_ids: I64


def prepare_arrays(case: ParityCase, vision: VisionConfig) -> CaseArrays:
    """Run the shared preprocessing."""
    height_px, width_px = case.image.shape[:2]
    grid = choose_grid(width_px, height_px, tile_px=vision.tile_px, max_tiles=vision.max_tiles)
    return CaseArrays(
        pixels=make_pixel_tiles(case.image, grid, vision),
        masks=np.stack([make_mask_tiles(mask, grid, vision) for mask in case.masks]),
        boxes=np.stack([compute_box_norm(mask) for mask in case.masks]),
        start_ids=np.array([[Tokenizer.start_id(style)] for style in case.styles], np.int64),
    )


def find_cases(
    regions: Path | None, images: Path | None, *, limit: int
) -> tuple[list[ParityCase], str]:
    """Return cases and a description of them: the given files, else the data folder, else synthetic
    images.

    The data folder is `URECA_DATA`, or `../shared/data`. Raises `SourceError`.
    """
    if (regions is None) != (images is None):
        raise SourceError("--regions and --images go together: give both or neither")
    data = Path(os.environ.get("URECA_DATA", "../shared/data"))
    regions, images = regions or data / "regions-train.jsonl.gz", images or data / "images"
    if regions.exists() and images.exists():
        return read_real_cases(regions, images, limit=limit), f"held out of {regions.name}"
    return make_synthetic_cases(limit=limit), "synthetic: no data folder was found"


def read_real_cases(regions: Path, images: Path, *, limit: int) -> list[ParityCase]:
    """Read up to `limit` regions of images that are held out of training (by the hash of their
    keys).

    Raises `SourceError` when there are none.
    """
    store = ImageStore([images])
    cases, count = [], 0
    for image_key, group in groupby(_read_held_out(regions), key=lambda record: record.image_key):
        records = list(group)[: min(_PER_PICTURE, limit - count)]
        if count >= limit:
            break
        if image_key in store:
            case = _make_case(store.read(image_key), records)
            cases.append(case)
            count += len(case.masks)
    if not cases:
        raise SourceError(f"{regions} and {images} share no held-out picture: give matching files")
    return cases


def make_synthetic_cases(*, limit: int, seed: int = 0) -> list[ParityCase]:
    """Make noise images with elliptic regions, for machines without the data folder."""
    rng = np.random.default_rng(seed)
    return [
        _make_synthetic(rng, min(_PER_PICTURE, limit - start))
        for start in range(0, limit, _PER_PICTURE)
    ]


def _read_held_out(path: Path) -> Iterator[RegionRecord]:
    return (record for record in read_regions(path) if record.is_held_out(HELD_OUT_EVERY))


def _make_case(image: Image, records: Sequence[RegionRecord]) -> ParityCase:
    """Build a case. Half of the regions use the long style, so that both instructions are
    compared.
    """
    masks = [rle.decode(Rle((r.height, r.width), r.counts)) for r in records]
    for mask in masks:
        if mask.shape != image.shape[:2]:
            raise RegionError(f"a mask of {mask.shape} does not fit its picture {image.shape[:2]}")
    told = tuple((*r.short, *r.long) for r in records)
    return ParityCase(image, tuple(masks), _alternate_styles(len(masks)), told)


def _make_synthetic(rng: np.random.Generator, count: int) -> ParityCase:
    height_px, width_px = rng.integers(120, 400, 2)
    coarse = rng.integers(0, 256, (height_px // 20 + 1, width_px // 20 + 1, 3), np.uint8)
    image = coarse.repeat(20, axis=0).repeat(20, axis=1)[:height_px, :width_px]
    ys, xs = np.mgrid[:height_px, :width_px]
    masks = []
    for _ in range(count):
        centre_y, centre_x = rng.uniform(0.2, 0.8, 2) * (height_px, width_px)
        radius_y, radius_x = rng.uniform(0.1, 0.3, 2) * (height_px, width_px)
        masks.append(((ys - centre_y) / radius_y) ** 2 + ((xs - centre_x) / radius_x) ** 2 <= 1)
    return ParityCase(
        np.ascontiguousarray(image), tuple(masks), _alternate_styles(count), ((),) * count
    )


def _alternate_styles(count: int) -> tuple[Style, ...]:
    return tuple("short" if index % 2 == 0 else "long" for index in range(count))
