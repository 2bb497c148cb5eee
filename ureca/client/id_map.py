"""Id maps of `panoptic` events: PNG with 8 bits of grey to numpy, without an image library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.errors import WireError

MAX_SIDE_PX = 1024
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8_BIT = (8, 0, 0, 0, 0)
"""Depth, colour type, compression, filter method, interlace of what is read."""
U8 = npt.NDArray[np.uint8]


def decode_id_map(png: bytes) -> U8:
    """The ids u8 [h, w] of a PNG with 8 bits of grey, at most 1,024 px a side, not interlaced.
    Raises `WireError` for anything else.
    """
    try:
        chunks = list(_read_chunks(png))
        width, height, *form = struct.unpack(">IIBBBBB", chunks[0][1])
    except (struct.error, IndexError) as error:
        raise WireError(f"expected a PNG as the id map, got {len(png)} other bytes") from error
    fits = 0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX
    if chunks[0][0] != b"IHDR" or tuple(form) != _GREY_8_BIT or not fits:
        raise WireError(
            f"expected an id map of 8-bit grey, at most {MAX_SIDE_PX} px a side, got {width} x "
            f"{height} of the form {form}"
        )
    length = height * (width + 1)
    packed = b"".join(data for kind, data in chunks if kind == b"IDAT")
    try:
        rows = zlib.decompressobj().decompress(packed, length + 1)
    except zlib.error as error:
        raise WireError(f"the id map's pixels cannot be read: {error}") from error
    if len(rows) != length:
        raise WireError(f"expected {length} bytes of pixels in the id map, got {len(rows)}")
    return _undo_filters(np.frombuffer(rows, np.uint8).reshape(height, width + 1))


def stretch_ids(ids: npt.NDArray[Any], height_px: int, width_px: int) -> npt.NDArray[Any]:
    """A map [h, w] of any integers in another size, by nearest neighbour."""
    if ids.shape == (height_px, width_px):
        return ids
    rows = np.arange(height_px) * ids.shape[0] // height_px
    columns = np.arange(width_px) * ids.shape[1] // width_px
    return np.ascontiguousarray(ids[rows[:, None], columns[None, :]])


def _read_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    if png[: len(_SIGNATURE)] != _SIGNATURE:
        raise WireError("expected a PNG as the id map")
    at = len(_SIGNATURE)
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        yield kind, png[at + 8 : at + 8 + length]
        at += length + 12


def _undo_filters(rows: U8) -> U8:
    """Pixels of filtered rows (PNG specification, 9.2); one byte is one pixel."""
    height, width = rows.shape[0], rows.shape[1] - 1
    ids = np.zeros((height, width), np.uint8)
    above = np.zeros(width, np.uint8)
    for y in range(height):
        kind, data = int(rows[y, 0]), rows[y, 1:]
        if kind == 0:
            above = data
        elif kind == 1:
            above = np.cumsum(data, dtype=np.uint64).astype(np.uint8)
        elif kind == 2:
            above = data + above
        elif kind in (3, 4):
            above = _undo_left(data, above, is_mean=kind == 3)
        else:
            raise WireError(f"expected PNG filters 0..4 in the id map, got {kind}")
        ids[y] = above
    return ids


def _undo_left(data: U8, above: U8, *, is_mean: bool) -> U8:
    """The filters that need the pixel to the left: mean and Paeth."""
    found, left, corner = [], 0, 0
    for value, up in zip(data.tolist(), above.tolist(), strict=True):
        guess = (left + up) // 2 if is_mean else _predict(left, up, corner)
        left, corner = (value + guess) & 255, up
        found.append(left)
    return np.array(found, np.uint8)


def _predict(left: int, up: int, corner: int) -> int:
    near = left + up - corner
    return min((left, up, corner), key=lambda one: abs(near - one))
