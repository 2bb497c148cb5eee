"""Measures a JPEG, PNG, WebP or BMP from its own bytes, without decoding a pixel.

A small file may decode to gigabytes or take hours, so its size, the lengths of its pieces and the
number of its scans are checked before a decoder sees it. `measure` walks the whole picture, from
its first byte to its own end marker; `picture_size` reads its head only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Literal

from ureca.errors import WireError
from ureca.protocol.jpeg_segments import JPEG_START, walk_jpeg
from ureca.protocol.picture_facts import PictureFacts, read_orientation

MAX_CHUNKS = 1 << 16
"""Most chunks of a PNG or WebP; encoders write one for every 8 KiB and more."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_NEEDED_FOR_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_OTHER_KINDS = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}


def picture_size(data: bytes, enc: Literal["jpeg", "png"]) -> tuple[int, int]:
    """(width, height) in pixels as stored, before any EXIF orientation; `WireError` when it is not
    such a file.
    """
    facts = measure_head(data)
    if facts.kind != enc:
        raise WireError(f"expected a {enc.upper()}, got a {facts.kind.upper()}")
    return facts.width, facts.height


def check_size(data: bytes, enc: Literal["jpeg", "png"], size: tuple[int, int]) -> None:
    """Compare (width, height) of a header with the picture's own, before or after it is turned by
    its EXIF orientation. Raises `WireError` when it is neither, or the picture is no `enc`.
    """
    facts = measure_head(data)
    if facts.kind != enc:
        raise WireError(f"expected a {enc.upper()}, got a {facts.kind.upper()}")
    stored, upright = (facts.width, facts.height), facts.upright_size
    if size not in (stored, upright):
        turned = f", EXIF orientation {facts.orientation}" if stored != upright else ""
        raise WireError(
            f"the header says {size[0]}x{size[1]}, the {enc} says {stored[0]}x{stored[1]}{turned}"
        )


def measure_head(data: bytes) -> PictureFacts:
    """Size and orientation by what comes before the pixels; the rest may be broken or missing.

    Raises `WireError` for what is no JPEG, PNG, WebP or BMP.
    """
    return _measure(data, whole=False)


def measure(data: bytes) -> PictureFacts:
    """All facts of a picture. What follows its own end is ignored.

    Raises `WireError` for what is no JPEG, PNG, WebP or BMP, and for a picture whose pieces do not
    lie within `data`, or are more than a camera or an editor writes.
    """
    return _measure(data, whole=True)


def first_picture(data: bytes, facts: PictureFacts) -> bytes:
    """What a decoder needs of `data`: from the first byte to the end of the first picture. Of a PNG
    only the chunks that pixels are made of: no text, no colour profile, no animation.
    """
    if facts.kind != "png":
        return data if facts.end == len(data) else data[: facts.end]
    chunks = list(png_chunks(data))
    if facts.end == len(data) and all(kind in _NEEDED_FOR_PIXELS for kind, _, _ in chunks):
        return data
    kept = (data[at - 8 : end + 4] for kind, at, end in chunks if kind in _NEEDED_FOR_PIXELS)
    return _PNG_START + b"".join(kept)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte, byte behind the last) of the content of each chunk up to `IEND`.

    Raises `WireError` when a chunk is not within `data`, or there are more than `MAX_CHUNKS`.
    """
    place = len(_PNG_START)
    for _ in range(MAX_CHUNKS):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        start, place = place + 8, place + 12 + length
        if place > len(data):
            raise WireError(f"the PNG is cut off or broken: its chunk {kind!r} is not whole")
        yield kind, start, start + length
        if kind == b"IEND":
            return
    raise WireError(f"a PNG of more than {MAX_CHUNKS} chunks; write it with fewer")


def grey_of_palette(data: bytes) -> tuple[bytes, int] | None:
    """An indexed PNG as a grey one whose values are the indices, and its bits of a pixel; None for
    any other PNG. A decoder spreads fewer than 8 bits to 0..255.
    """
    head = data[16:29]
    if not data.startswith(_PNG_START) or len(head) < 13 or head[9] != 3:
        return None
    grey = head[:9] + b"\0" + head[10:]
    check = zlib.crc32(b"IHDR" + grey).to_bytes(4, "big")
    kept = (data[at - 8 : end + 4] for kind, at, end in png_chunks(data) if kind == b"IDAT")
    end = b"\0\0\0\0IEND\xaeB`\x82"
    return b"".join((_PNG_START, data[8:16], grey, check, *kept, end)), head[8]


def _measure(data: bytes, *, whole: bool) -> PictureFacts:
    if data.startswith(JPEG_START):
        return walk_jpeg(data, whole=whole)
    if data.startswith(_PNG_START):
        return _measure_png(data, whole=whole)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _measure_webp(data, whole=whole)
    if data.startswith(b"BM"):
        return _measure_bmp(data, whole=whole)
    raise WireError(f"expected a JPEG, PNG, WebP or BMP, got {_kind_of(data)}")


def _kind_of(data: bytes) -> str:
    if not data:
        return "no bytes at all"
    named = [name for start, name in _OTHER_KINDS if data.startswith(start)]
    if data[4:8] == b"ftyp":
        named.append(_BRANDS.get(data[8:12], "MP4 or HEIF file"))
    if named:
        return f"a {named[0]}; convert it"
    return f"bytes that start with {data[:8]!r}"


def _measure_png(data: bytes, *, whole: bool) -> PictureFacts:
    if data[8:16] != b"\0\0\0\rIHDR" or len(data) < 24:
        raise WireError(f"expected a PNG, got bytes that start with {data[:16]!r}")
    width, height = struct.unpack_from(">II", data, 16)
    if not whole:
        return PictureFacts("png", width, height, _orientation_of_png(data), len(data))
    orientation, end, has_pixels = 1, 0, False
    for kind, start, end in png_chunks(data):
        has_pixels = has_pixels or kind == b"IDAT"
        if kind == b"eXIf":
            orientation = read_orientation(data[start:end])
    if not has_pixels:
        raise WireError("the PNG has no pixels: a chunk IDAT is missing")
    return PictureFacts("png", width, height, orientation, end + 4)


def _orientation_of_png(data: bytes) -> int:
    """1 also where the chunks are broken: that is told when the picture is decoded."""
    try:
        found = [(at, end) for kind, at, end in png_chunks(data) if kind == b"eXIf"]
    except WireError:
        return 1
    return read_orientation(data[found[-1][0] : found[-1][1]]) if found else 1


def _measure_webp(data: bytes, *, whole: bool) -> PictureFacts:
    """RFC 9649: the first chunk has the size of the canvas, the others lie within it."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < 30 or (whole and end > len(data)):
        raise WireError("the WebP is cut off: it says that it is longer")
    canvas, orientation = _webp_piece(data[12:16], data, 20), 1
    if canvas is None:
        raise WireError(f"expected a WebP, got one whose first chunk is {data[12:16]!r}")
    chunks = _webp_chunks(data, min(end, len(data))) if whole else ()
    for kind, start, stop in chunks:
        piece = _webp_piece(kind, data[start : min(stop, start + 16)], 0)
        if piece is not None and kind != b"ANMF" and piece != canvas:
            raise WireError(f"the WebP says {canvas} and holds a picture of {piece}")
        if piece is not None and (piece[0] > canvas[0] or piece[1] > canvas[1]):
            raise WireError(f"the WebP says {canvas} and holds a larger picture of {piece}")
        if kind == b"EXIF":
            orientation = read_orientation(data[start:stop])
    return PictureFacts("webp", *canvas, orientation, min(end, len(data)))


def _webp_chunks(data: bytes, end: int) -> Iterator[tuple[bytes, int, int]]:
    place = 12
    for _ in range(MAX_CHUNKS):
        if place + 8 > end:
            return
        kind, length = (
            data[place : place + 4],
            int.from_bytes(data[place + 4 : place + 8], "little"),
        )
        if place + 8 + length > end:
            raise WireError(f"the WebP is cut off or broken: its chunk {kind!r} is not whole")
        yield kind, place + 8, place + 8 + length
        place += 8 + length + length % 2
    raise WireError(f"a WebP of more than {MAX_CHUNKS} chunks; write it with fewer")


def _webp_piece(kind: bytes, data: bytes, at: int) -> tuple[int, int] | None:
    """Width and height of what a chunk holds; None for a chunk without pixels."""
    if kind == b"VP8X":
        return _u24(data, at + 4) + 1, _u24(data, at + 7) + 1
    if kind == b"ANMF":  # with its place on the canvas
        x, y = 2 * _u24(data, at), 2 * _u24(data, at + 3)
        return x + _u24(data, at + 6) + 1, y + _u24(data, at + 9) + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[at + 1 : at + 5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        bits = int.from_bytes(data[at + 6 : at + 10], "little")
        return bits & 0x3FFF, bits >> 16 & 0x3FFF
    return None


def _u24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _measure_bmp(data: bytes, *, whole: bool) -> PictureFacts:
    if len(data) < 26:
        raise WireError("the BMP is cut off in its header")
    pixels_at, head_bytes = struct.unpack_from("<II", data, 10)
    if head_bytes == 12:  # OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif len(data) >= 34:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)  # negative: the rows stand from top to bottom
    else:
        raise WireError("the BMP is cut off in its header")
    row_bytes = (width * bits + 31) // 32 * 4
    is_plain = compression in (0, 3)
    if whole and (
        pixels_at > len(data) or (is_plain and row_bytes * height > len(data) - pixels_at)
    ):
        raise WireError(f"the BMP is cut off: {width}x{height} pixels are not in {len(data)} bytes")
    return PictureFacts("bmp", width, height, 1, len(data))
