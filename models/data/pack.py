"""Packs mask tiles and boxes of a whole data set on disk once, and maps them into memory.

Decoding some hundred thousand masks takes minutes, and training starts often. The folder's name is
a hash of all inputs, so changed data or another tile size gets a new folder. A folder `<key>/`
holds plain `.npy` files and `progress.json`, the number of finished rows. An interrupted run
continues there, and only complete files are returned. Two runs that build the same folder write the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ureca.datatypes import Rle
from ureca.errors import RegionError, SourceError
from ureca.models.config import VisionConfig
from ureca.models.data.regions import RegionRecord
from ureca.models.preprocess import Grid, compute_box_norm, make_mask_tiles
from ureca.protocol import rle

_FORMAT = 1
"""Raise it when the preprocessing of masks changes: old files are then not found any more."""
_ROWS_PER_SAVE = 4096
_PROGRESS = "progress.json"
_DTYPES = {"mask_bits": np.uint8, "box_norm": np.float32, "ok": np.bool_}
_Arrays = dict[str, np.memmap[Any, np.dtype[Any]]]  # three dtypes in one table


@dataclass(frozen=True)
class PackedMasks:
    """The masks of n records, in their order; the arrays are read-only maps of files.

    `mask_bits` u8 [n, mask_px * mask_px / 8] (`np.packbits` of the 0/1 tile), `box_norm` f32 [n, 4]
    tight box xyxy in 0..1, `ok` bool [n]: False where the mask is empty or cannot be decoded (its
    row is zeros).
    """

    mask_bits: npt.NDArray[np.uint8]
    box_norm: npt.NDArray[np.float32]
    ok: npt.NDArray[np.bool_]
    mask_px: int

    def __len__(self) -> int:
        return len(self.ok)

    def unpack_tiles(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return mask tiles bool [len(rows), mask_px, mask_px]."""
        bits = np.unpackbits(self.mask_bits[np.asarray(rows, np.int64)], axis=1)
        return bits.view(np.bool_).reshape(-1, self.mask_px, self.mask_px)


def load_or_pack_masks(
    records: Sequence[RegionRecord], vision: VisionConfig, folder: Path
) -> PackedMasks:
    """Load the masks and boxes of `records` as the captioner expects them (one tile per image).

    They are read from `folder` if they are there, else packed there first, with progress. Raises
    `SourceError` when there are no records or `folder` cannot be written.
    """
    if not records:
        raise SourceError("expected records to pack, got none")
    home = folder / _hash_inputs(records, vision)
    try:
        if not _is_complete(home, len(records), vision):
            _create(home, len(records), vision)
        _fill_rows(home, records, vision)
        arrays = {name: np.asarray(array) for name, array in _map_files(home, "r").items()}
        return PackedMasks(**arrays, mask_px=vision.mask_px)
    except OSError as error:
        raise SourceError(f"cannot keep packed masks in {home}: {error}") from error


def _hash_inputs(records: Sequence[RegionRecord], vision: VisionConfig) -> str:
    digest = hashlib.blake2b(f"{_FORMAT}/{vision.mask_px}".encode(), digest_size=12)
    for record in records:
        digest.update(f"/{record.height}x{record.width}:{record.counts}".encode())
    return digest.hexdigest()


def _compute_shapes(rows: int, vision: VisionConfig) -> dict[str, tuple[int, ...]]:
    return {"mask_bits": (rows, vision.mask_px**2 // 8), "box_norm": (rows, 4), "ok": (rows,)}


def _read_rows_done(home: Path) -> int:
    """Return the number of finished rows; 0 without a readable note."""
    try:
        return int(json.loads((home / _PROGRESS).read_text())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_rows_done(home: Path, rows: int) -> None:
    temporary = home / f".{_PROGRESS}.{os.getpid()}"
    temporary.write_text(json.dumps({"rows": rows}))
    temporary.replace(home / _PROGRESS)


def _create(home: Path, rows: int, vision: VisionConfig) -> None:
    """Create files of the final size in place of the old ones; others see all of them or none."""
    shutil.rmtree(home, ignore_errors=True)
    temporary = home.with_name(f".{home.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    for name, shape in _compute_shapes(rows, vision).items():
        path = temporary / f"{name}.npy"
        np.lib.format.open_memmap(path, mode="w+", dtype=_DTYPES[name], shape=shape).flush()
    try:
        temporary.rename(home)
    except OSError:
        # another run was faster; its files are equal
        shutil.rmtree(temporary)
        if not home.is_dir():
            raise


def _is_complete(home: Path, rows: int, vision: VisionConfig) -> bool:
    """Whether all files are there with the right shapes and sizes."""
    try:
        arrays = _map_files(home, "r")
    except (OSError, ValueError):
        return False
    return all(arrays[name].shape == shape for name, shape in _compute_shapes(rows, vision).items())


def _map_files(home: Path, mode: str) -> _Arrays:
    return {n: np.lib.format.open_memmap(home / f"{n}.npy", mode=mode) for n in _DTYPES}


def _fill_rows(home: Path, records: Sequence[RegionRecord], vision: VisionConfig) -> None:
    """Pack the missing rows; no file is opened for writing if none is missing."""
    start = _read_rows_done(home)
    if start >= len(records):
        return
    arrays = _map_files(home, "r+")
    with tqdm(total=len(records), initial=start, desc="masks", unit="region") as bar:
        for stop in (*range(start + _ROWS_PER_SAVE, len(records), _ROWS_PER_SAVE), len(records)):
            for row in range(start, stop):
                _pack_row(arrays, row, records[row], vision)
                bar.update()
            for array in arrays.values():
                array.flush()
            _write_rows_done(home, stop)
            start = stop


def _pack_row(arrays: _Arrays, row: int, record: RegionRecord, vision: VisionConfig) -> None:
    try:
        mask = rle.decode(Rle(size=(record.height, record.width), counts=record.counts))
        tile = make_mask_tiles(mask, Grid(1, 1), vision)[0]
    except RegionError:  # `ureca data check` names these; here they are only left out
        arrays["ok"][row] = False
        return
    arrays["mask_bits"][row] = np.packbits(tile.astype(np.bool_))
    arrays["box_norm"][row] = compute_box_norm(mask)
    arrays["ok"][row] = True
