"""Width and height of a JPEG or PNG from its own header, without decoding a pixel.

A small file may unpack to gigabytes; whoever checks the size first cannot be surprised.
"""

from __future__ import annotations

from typing import Literal

from ureca.errors import WireError

_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_MAX_SEGMENTS = 1024


def picture_size(data: bytes, enc: Literal["jpeg", "png"]) -> tuple[int, int]:
    """(width, height) in pixels as the file says; `WireError` when it is not such a file."""
    return _png_size(data) if enc == "png" else _jpeg_size(data)


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
