"""Reads masks of regions from pictures as people have them: black and white, one value per region,
indexed colours, 16 bits, or a shape in the alpha channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.errors import RegionError, SourceError
from ureca.node.decoding.image_decoder import decode_unchanged, measure_picture, turned_upright
from ureca.protocol.image_header import first_picture, grey_of_palette

MAX_REGIONS = 256
MAX_GREY_IDS = 32
"""An 8-bit grey mask of so few values, none of them white, has a region per value."""

_MAX_PX = 1 << 25
_VOID = 255
"""Index of "not labelled" in indexed masks (PASCAL VOC, DAVIS)."""
_HALF = 128
_Values = npt.NDArray[np.integer[Any]]


def decode_masks(data: bytes, *, max_px: int = _MAX_PX) -> Mapping[int, Mask]:
    """The masks bool [H, W] of a picture by their value in it, in rising order; 0 is no region.

    - Indexed PNG: a region for each index, whatever its colour; 255 is left out beside others.
    - 16 bits: a region for each value.
    - Alpha that is not the same everywhere: one region, where it is above 0.
    - 8 bits: one region where it is above 0, or one per value if these are at most `MAX_GREY_IDS`
      and none is 255. In a JPEG or WebP, or between many greys, what is below half is black.
    - Colours without a palette: a region per colour, if these are at most `MAX_GREY_IDS`.

    Raises `SourceError` for what `decode_picture` refuses and for more than `MAX_REGIONS`,
    `RegionError` when there is none.
    """
    values = _values(data, max_px)
    ids = [int(value) for value in np.unique(values) if value]
    if not ids:
        raise RegionError("the mask is empty: no pixel is above 0")
    if len(ids) > MAX_REGIONS:
        raise SourceError(
            f"the mask has {len(ids)} regions, at most {MAX_REGIONS} are read; is it a photo?"
        )
    return {value: np.asarray(values == value, np.bool_) for value in ids}


def decode_mask(data: bytes, *, max_px: int = _MAX_PX) -> Mask:
    """All regions of a mask as one, bool [H, W]; see `decode_masks`. It may be empty."""
    return np.asarray(_values(data, max_px) > 0, np.bool_)


def _values(data: bytes, max_px: int) -> _Values:
    """The value of each pixel [H, W]."""
    facts = measure_picture(data, max_px=max_px)
    picture = first_picture(data, facts)
    indexed = grey_of_palette(picture)
    if indexed is not None:
        grey, bits = indexed
        values: _Values = _indices(decode_unchanged(grey), bits)
    else:
        values = _unindexed(decode_unchanged(picture), is_lossy=facts.kind in ("jpeg", "webp"))
    if values.shape[:2] != (facts.height, facts.width):
        raise SourceError(f"the mask says {facts.width}x{facts.height}, got {values.shape[:2]}")
    return turned_upright(values, facts.orientation)


def _indices(grey: _Values, bits: int) -> _Values:
    if grey.ndim != 2:
        raise SourceError(f"an indexed mask came as {list(grey.shape)}")
    # Decoders spread 1, 2 and 4 bits over 0..255.
    indices = grey // (255 // ((1 << bits) - 1)) if bits < 8 else grey
    if (indices == _VOID).any() and ((indices > 0) & (indices < _VOID)).any():
        indices = np.where(indices == _VOID, 0, indices)
    return np.asarray(indices)


def _unindexed(pixels: _Values, *, is_lossy: bool) -> _Values:
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        alpha = pixels[:, :, -1]
        if alpha.min() != alpha.max():
            return np.asarray(alpha > 0, np.uint8)
        pixels = pixels[:, :, :-1]
    if pixels.ndim == 3:
        pixels = _one_value(pixels, is_lossy=is_lossy)
    if pixels.dtype == np.int64:
        return pixels
    if pixels.dtype == np.uint16:
        return _sixteen_bits(pixels)
    return _eight_bits(pixels, is_lossy=is_lossy)


def _one_value(colours: _Values, *, is_lossy: bool) -> _Values:
    """Red + 256 green + 65536 blue, as COCO's panoptic masks have it, where few colours are used;
    else the brightest of the three.
    """
    blue, green, red = (colours[:, :, channel].astype(np.int64) for channel in range(3))
    is_grey = bool((blue == green).all() and (green == red).all())
    ids = red + 256 * green + 65536 * blue
    if is_grey or is_lossy or colours.dtype != np.uint8 or len(np.unique(ids)) > MAX_GREY_IDS + 1:
        return np.asarray(colours.max(axis=2))
    return ids


def _sixteen_bits(grey: _Values) -> _Values:
    """Values are regions, except in a black and white mask that was saved with 16 bits."""
    counted = len(np.unique(grey))
    return grey if counted <= MAX_REGIONS + 1 else _eight_bits(grey // 257, is_lossy=False)


def _eight_bits(grey: _Values, *, is_lossy: bool) -> _Values:
    found = [int(value) for value in np.unique(grey) if value]
    if is_lossy or (len(found) > MAX_GREY_IDS):
        return np.asarray(grey >= _HALF, np.uint8)
    if _VOID in found:
        return np.asarray(grey > 0, np.uint8)
    return grey
