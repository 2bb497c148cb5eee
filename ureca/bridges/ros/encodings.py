"""Raw encodings of `sensor_msgs/Image` as those that a node reads. Pure, numpy only.

YUV 4:2:2 becomes NV12 (the colour of two rows is averaged; no colour is computed here, the node
does that), Bayer patterns become RGB of 2 x 2 pixels each, 16 bits become the upper 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.bridges.ros.messages import Image
from ureca.errors import WireError
from ureca.protocol.frames import Encoding

U8 = npt.NDArray[np.uint8]
Converted = tuple[Encoding, bytes, int]
"""Encoding, pixels and bytes of a row."""

_UNTOUCHED: Mapping[str, tuple[Encoding, int]] = MappingProxyType(
    {
        "rgb8": ("rgb8", 3),
        "bgr8": ("bgr8", 3),
        "mono8": ("mono8", 1),
        "8UC1": ("mono8", 1),
        "8UC3": ("bgr8", 3),
    }
)
_FOUR: Mapping[str, Encoding] = MappingProxyType({"rgba8": "rgb8", "bgra8": "bgr8", "8UC4": "bgr8"})
_SIXTEEN: Mapping[str, tuple[Encoding, int]] = MappingProxyType(
    {
        "mono16": ("mono8", 1),
        "rgb16": ("rgb8", 3),
        "bgr16": ("bgr8", 3),
        "16UC3": ("bgr8", 3),
        "rgba16": ("rgb8", 4),
        "bgra16": ("bgr8", 4),
    }
)
_LUMA_FIRST = frozenset({"yuv422_yuy2", "yuyv"})
_CHROMA_FIRST = frozenset({"yuv422", "uyvy"})
_BAYER = {"rggb": (0, 0), "bggr": (1, 1), "gbrg": (1, 0), "grbg": (0, 1)}
"""Row and column of red in a cell of 2 x 2; blue is opposite."""
_NO_PICTURE = {
    "16UC1": "depth in millimetres",
    "32FC1": "depth in metres",
    "16SC1": "disparity or depth",
    "64FC1": "depth",
}
KNOWN = sorted(
    {*_UNTOUCHED, *_FOUR, *_SIXTEEN, *_LUMA_FIRST, *_CHROMA_FIRST, "nv12", "nv21"}
    | {f"bayer_{name}{bits}" for name in _BAYER for bits in (8, 16)}
)


def convert(image: Image) -> Converted:
    """The pixels of an image in an encoding that a node reads, untouched where that is possible.

    Raises `WireError` for another encoding, and for fewer bytes than the image says.
    """
    name = image.encoding
    if name in _UNTOUCHED:
        enc, channels = _UNTOUCHED[name]
        _check(image, image.width * channels, image.height)
        return enc, image.data, image.step
    for matches, made in _CONVERSIONS:
        if matches(name):
            return made(image)
    if name in _NO_PICTURE:
        raise WireError(
            f"expected an image of colours or greys, got {name}, {_NO_PICTURE[name]}: forward the "
            "colour topic"
        )
    raise WireError(f"expected an image of {KNOWN}, got {name!r:.40}; convert it")


def depth_of(format_: str) -> str | None:
    """What a `CompressedImage` is if it is no picture: image_transport's depth."""
    return format_ if "compresseddepth" in format_.lower() else None


def _check(image: Image, row_bytes: int, rows: int) -> None:
    if not image.width or not image.height or image.step < row_bytes:
        raise WireError(
            f"expected {image.width}x{image.height} in rows of at least {row_bytes} bytes of "
            f"{image.encoding}, got rows of {image.step}"
        )
    if len(image.data) != image.step * rows:
        raise WireError(
            f"expected {rows} rows of {image.step} bytes of {image.encoding}, got "
            f"{len(image.data)} bytes"
        )


def _rows(image: Image, row_bytes: int, rows: int | None = None) -> U8:
    """u8 [rows, row_bytes] without padding."""
    count = image.height if rows is None else rows
    _check(image, row_bytes, count)
    return np.frombuffer(image.data, np.uint8).reshape(count, image.step)[:, :row_bytes]


def _of_four(image: Image) -> Converted:
    pixels = _rows(image, image.width * 4).reshape(image.height, image.width, 4)
    return _FOUR[image.encoding], pixels[:, :, :3].tobytes(), image.width * 3


def _of_sixteen(image: Image) -> Converted:
    enc, channels = _SIXTEEN[image.encoding]
    upper = _upper_bytes(image, channels).reshape(image.height, image.width, channels)
    kept = min(channels, 3)
    return enc, upper[:, :, :kept].tobytes(), image.width * kept


def _upper_bytes(image: Image, channels: int) -> U8:
    """The more significant byte of each value."""
    pairs = _rows(image, image.width * channels * 2).reshape(image.height, -1, 2)
    return pairs[:, :, 0 if image.is_bigendian else 1]


def _of_yuv422(image: Image) -> Converted:
    if image.width % 2:
        raise WireError(f"{image.encoding} has an even width, got {image.width}")
    groups = _rows(image, image.width * 2).reshape(image.height, image.width // 2, 4)
    first = 0 if image.encoding in _LUMA_FIRST else 1
    luma = groups[:, :, first::2].reshape(image.height, image.width)
    chroma = groups[:, :, 1 - first :: 2]  # U and V
    if image.height % 2:
        chroma = np.concatenate([chroma, chroma[-1:]])
    halved = (chroma[0::2].astype(np.uint16) + chroma[1::2] + 1) >> 1
    return "nv12", luma.tobytes() + halved.astype(np.uint8).tobytes(), image.width


def _of_nv(image: Image) -> Converted:
    even = image.width + image.width % 2
    rows = image.height + (image.height + 1) // 2
    _check(image, even, rows)
    if image.encoding == "nv12":
        return "nv12", image.data, image.step
    whole = _rows(image, even, rows)
    chroma = whole[image.height :].reshape(-1, even // 2, 2)[:, :, ::-1]
    return "nv12", whole[: image.height].tobytes() + chroma.tobytes(), even


def _of_bayer(image: Image) -> Converted:
    pattern = image.encoding.removeprefix("bayer_")[:4]
    grey = _upper_bytes(image, 1) if image.encoding.endswith("16") else _rows(image, image.width)
    if image.width < 2 or image.height < 2:
        raise WireError(f"a Bayer image has at least 2x2 pixels, got {image.width}x{image.height}")
    padded = np.pad(grey, ((0, image.height % 2), (0, image.width % 2)), mode="reflect")
    row, column = _BAYER[pattern]
    red = padded[row::2, column::2]
    blue = padded[1 - row :: 2, 1 - column :: 2]
    greens = padded[row::2, 1 - column :: 2], padded[1 - row :: 2, column::2]
    green = ((greens[0].astype(np.uint16) + greens[1]) >> 1).astype(np.uint8)
    cells = np.stack([red, green, blue], axis=2)
    full = cells.repeat(2, 0).repeat(2, 1)[: image.height, : image.width]
    return "rgb8", full.tobytes(), image.width * 3


_CONVERSIONS: tuple[tuple[Callable[[str], Any], Callable[[Image], Converted]], ...] = (
    (_FOUR.__contains__, _of_four),
    (_SIXTEEN.__contains__, _of_sixteen),
    ((_LUMA_FIRST | _CHROMA_FIRST).__contains__, _of_yuv422),
    (frozenset({"nv12", "nv21"}).__contains__, _of_nv),
    ({f"bayer_{name}{bits}" for name in _BAYER for bits in (8, 16)}.__contains__, _of_bayer),
)
