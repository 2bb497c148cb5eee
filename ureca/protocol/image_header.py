"""Width and height of a JPEG, PNG, WebP or BMP from its own header, without decoding a pixel.

A small file may decode to gigabytes, so the size is checked before decoding.
"""

from __future__ import annotations

import struct
from typing import Literal

from ureca.errors import WireError

_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_MAX_SEGMENTS = 1024


def picture_size(data: bytes, enc: Literal["jpeg", "png"]) -> tuple[int, int]:
    """(width, height) in pixels as the file says; `WireError` when it is not such a file."""
    return _png_size(data) if enc == "png" else _jpeg_size(data)


def any_picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels of a JPEG, PNG, WebP or BMP; `WireError` for everything else."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = struct.unpack_from("<ii", data, 18)
        return width, abs(height)  # negative: the rows stand from top to bottom
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_size(data)
    return _png_size(data)


def _webp_size(data: bytes) -> tuple[int, int]:
    """The first chunk: extended, lossless or lossy (RFC 9649)."""
    kind = data[12:16]
    if kind == b"VP8X":
        sides = data[24:27], data[27:30]
        return int.from_bytes(sides[0], "little") + 1, int.from_bytes(sides[1], "little") + 1
    bits = int.from_bytes(data[21:25] if kind == b"VP8L" else data[26:30], "little")
    if kind == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return bits & 0x3FFF, bits >> 16 & 0x3FFF
    raise WireError(f"expected a WebP, got one whose first chunk is {kind!r}")


def _png_size(data: bytes) -> tuple[int, int]:
    if not data.startswith(_PNG_START) or len(data) < 24:
        raise WireError(f"expected a PNG, got bytes that start with {data[:8]!r}")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk the segments up to the first start of frame (ITU-T T.81, annex B)."""
    if not data.startswith(b"\xff\xd8"):
        raise WireError(f"expected a JPEG, got bytes that start with {data[:8]!r}")
    place = 2
    for _ in range(_MAX_SEGMENTS):
        while data[place : place + 2] == b"\xff\xff":
            place += 1  # fill bytes
        if len(data) < place + 9 or data[place] != 0xFF:
            break
        marker = data[place + 1]
        if marker in _START_OF_FRAME:
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        place += 2 if marker in _WITHOUT_LENGTH else 2 + length
    raise WireError("expected a JPEG with a start of frame, got one that is cut off or broken")
