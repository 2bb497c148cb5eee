"""Pictures as cameras, phones and strangers send them: measured first, then decoded or refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.node.decoding.image_decoder import decode_picture
from ureca.testing import SyntheticSource

IMAGE = SyntheticSource(width_px=162, height_px=122).image(3)


def saved(kind: str = "JPEG", image: Image = IMAGE, **options: Any) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def by_opencv(data: bytes, flags: int = 0) -> Image:
    flags |= cv2.IMREAD_COLOR_RGB
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    size = struct.pack(">I", len(data) if length is None else length)
    return size + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, width: int = 1, height: int = 1) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks)


@pytest.mark.parametrize(
    "behind",
    [b"\0" * 8, b"\n", b"DahuaXX\x01", b"\xff\xd9", b"\0\0\0\x18ftypmp42" + b"x" * 500, saved()],
    ids=["zeros", "newline", "maker's", "second end", "motion photo", "second picture"],
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 5}])
def test_bytes_behind_a_picture_are_ignored(behind: bytes, options: dict[str, Any]) -> None:
    data = saved(**options)
    assert np.array_equal(decode_picture(data + behind), by_opencv(data))


def test_the_end_of_a_preview_inside_is_not_the_end_of_the_picture() -> None:
    data = saved()
    with_preview = data[:2] + segment(0xE1, b"Exif\0\0" + saved()[:-2] + b"\xff\xd9") + data[2:]
    assert np.array_equal(decode_picture(with_preview), by_opencv(data))
    with pytest.raises(SourceError, match="cut off"):
        decode_picture(with_preview[: len(with_preview) // 2])


@pytest.mark.parametrize("padding", [b"", b"\0" * 300])
@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"restart_marker_blocks": 5}, {"restart_marker_rows": 1}],
    ids=str,
)
def test_a_missing_end_marker_is_no_missing_picture(
    options: dict[str, Any], padding: bytes
) -> None:
    data = saved(quality=85, **options)
    assert np.array_equal(decode_picture(data[:-2] + padding), by_opencv(data))
    for missing in (20, 100, 500, len(data) // 2):
        with pytest.raises(SourceError, match="cut off: its end marker is missing"):
            decode_picture(data[:-missing] + padding)


def test_a_progressive_jpeg_needs_its_end_marker() -> None:
    with pytest.raises(SourceError, match="cut off"):
        decode_picture(saved(progressive=True)[:-2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = saved(kind, exif=exif.tobytes())
    stored = Pillow.fromarray(by_opencv(data, cv2.IMREAD_IGNORE_ORIENTATION))
    stored.getexif()[0x0112] = orientation  # old OpenCVs do not turn WebP by themselves
    assert np.array_equal(decode_picture(data), np.asarray(ImageOps.exif_transpose(stored)))


@pytest.mark.parametrize("kind", [b"IDAT", b"fdAT", b"tEXt", b"PLTE", b"iCCP", b"zTXt"])
def test_a_chunk_that_says_more_than_there_is_costs_nothing(kind: bytes) -> None:
    bomb = png(chunk(kind, b"x" * 12, 2**31 - 16), chunk(b"IEND", b""))
    with pytest.raises(SourceError, match="is not whole"):
        decode_picture(bomb)


def test_chunks_are_counted_and_what_is_no_pixel_does_not_reach_the_decoder() -> None:
    data = saved("PNG")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))
    assert np.array_equal(decode_picture(data[:33] + text + data[33:]), IMAGE)
    many = png(chunk(b"tEXt", b"") * (1 << 16))
    with pytest.raises(SourceError, match="chunks"):
        decode_picture(many)


def test_an_animation_is_its_first_picture() -> None:
    more = [Pillow.fromarray(IMAGE[::-1])]
    animated = saved("PNG", save_all=True, append_images=more)
    assert np.array_equal(decode_picture(animated), IMAGE)
    lossless = saved("WEBP", save_all=True, append_images=more, lossless=True)
    assert np.array_equal(decode_picture(lossless), IMAGE)


def test_scans_and_segments_are_counted() -> None:
    data = saved(progressive=True)
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + b"\x55"
    with pytest.raises(SourceError, match="more than 64 scans"):
        decode_picture(data[:-2] + scan * 100 + b"\xff\xd9")
    with pytest.raises(SourceError, match="segments"):
        decode_picture(data[:2] + segment(0xFE, b"x") * 2000 + data[2:])
    frame = data.index(b"\xff\xc2")
    with pytest.raises(SourceError, match="second start of frame"):
        decode_picture(data[:frame] + segment(0xC0, b"\x08\0\1\0\1\1\1\x11\0") + data[frame:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_sizes_are_looked_at_before_pixels(kind: str) -> None:
    data = saved(kind)
    with pytest.raises(SourceError, match="exceeds the limit of 1000 pixels"):
        decode_picture(data, max_px=1000)
    with pytest.raises(SourceError):
        decode_picture(data[: len(data) * 2 // 3])
    image = decode_picture(data + b"behind")
    assert image.shape == IMAGE.shape


def test_a_webp_holds_what_it_says() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 1
    data = saved("WEBP", exif=exif.tobytes())
    assert data[12:16] == b"VP8X"
    smaller = data[:24] + b"\x01\0\0\x01\0\0" + data[30:]
    with pytest.raises(SourceError, match="holds a"):
        decode_picture(smaller)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (saved("TIFF"), "TIFF"),
        (saved("GIF"), "GIF"),
        (b"\0\0\0\x1cftypavif" + bytes(100), "AVIF"),
        (b"\0\0\0\x1cftypheic" + bytes(100), "HEIC"),
        (b"", "no bytes"),
        (b"<html>login</html>", "<html>"),
    ],
)
def test_other_kinds_are_refused_by_name(data: bytes, named: str) -> None:
    with pytest.raises(SourceError, match="expected a JPEG, PNG, WebP or BMP") as error:
        decode_picture(data)
    assert named in str(error.value)
