"""Encodings of ROS cameras, from the same scene each: as a node decodes them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ureca.bridges.ros.encodings import KNOWN
from ureca.bridges.ros.messages import CompressedImage, Header, Image, Time
from ureca.bridges.ros.pictures import Numbering, compressed, raw
from ureca.errors import WireError
from ureca.node.decoding.image_decoder import decode_nv12
from ureca.protocol.frames import decode_frame, encode_frame

HEADER = Header(Time(1, 2), "camera")


def scene(width: int = 64, height: int = 48) -> np.ndarray:
    """Smooth colours, so that halved colour and 2 x 2 cells lose little."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 3, y * 4, 255 - x * 3], axis=2).clip(0, 255).astype(np.uint8)


def yuv444(rgb: np.ndarray) -> np.ndarray:
    """Y, U and V at each pixel: BT.601, limited range."""
    r, g, b = (rgb[:, :, n].astype(float) for n in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return np.stack([y, u, v], axis=2).round().astype(np.uint8)


def packed(name: str, rgb: np.ndarray, *, big: bool) -> np.ndarray:
    """The rows u8 [H, bytes] of an image in an encoding."""
    height, width = rgb.shape[:2]
    yuv = yuv444(rgb)
    if name in ("yuv422_yuy2", "yuyv", "yuv422", "uyvy"):
        colour = yuv[:, ::2, 1:]
        rows = np.empty((height, width // 2, 4), np.uint8)
        first = 0 if name in ("yuv422_yuy2", "yuyv") else 1
        rows[:, :, first], rows[:, :, first + 2] = yuv[:, ::2, 0], yuv[:, 1::2, 0]
        rows[:, :, 1 - first], rows[:, :, 3 - first] = colour[:, :, 0], colour[:, :, 1]
        return rows.reshape(height, -1)
    if name in ("nv12", "nv21"):
        colour = yuv[::2, ::2, 1:]
        colour = colour if name == "nv12" else colour[:, :, ::-1]
        return np.concatenate([yuv[:, :, 0], colour.reshape(height // 2, width)])
    if name.startswith("bayer_"):
        order = {"r": 0, "g": 1, "b": 2}
        grey = np.empty((height, width), np.uint8)
        for place, letter in enumerate(name[6:10]):
            grey[place // 2 :: 2, place % 2 :: 2] = rgb[
                place // 2 :: 2, place % 2 :: 2, order[letter]
            ]
        return in_sixteen(grey, big=big) if name.endswith("16") else grey
    bgr = name.startswith(("bgr", "8U", "16UC3"))
    pixels = rgb[:, :, ::-1] if bgr else rgb
    if name in ("mono8", "mono16", "8UC1"):
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None]
    if name.startswith(("rgba", "bgra", "8UC4")):
        pixels = np.dstack([pixels, np.full((height, width), 9, np.uint8)])
    flat = np.ascontiguousarray(pixels).reshape(height, -1)
    return in_sixteen(flat, big=big) if "16" in name else flat


def in_sixteen(rows: np.ndarray, *, big: bool) -> np.ndarray:
    return (rows.astype(np.uint16) * 257).astype(">u2" if big else "<u2").view(np.uint8)


def decoded(image: Image) -> np.ndarray:
    """The picture that a node makes of it."""
    header, pixels = raw(image, Numbering("cam0", bytes(16)), 1)
    parts = encode_frame(header, bytes(pixels), "ros")
    return decode_frame(
        parts,
        lambda data, h: decode_nv12(data, width=h.w, height=h.h, stride=h.stride),  # type: ignore[arg-type]
        received_ns=0,
    ).image


@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize("name", KNOWN)
def test_every_encoding_shows_the_scene(name: str, padding: int) -> None:
    rgb = scene()
    for big in (False, True):
        rows = np.pad(packed(name, rgb, big=big), ((0, 0), (0, padding)))
        image = Image(HEADER, 48, 64, name, int(big), rows.shape[1], rows.tobytes())
        found = decoded(image)
        wanted = rgb
        if name in ("mono8", "mono16", "8UC1"):
            wanted = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2)
        assert found.shape == rgb.shape
        assert np.abs(found.astype(int) - wanted).mean() < 4, name


@pytest.mark.parametrize("size", [(63, 47), (65, 49)])
@pytest.mark.parametrize("name", ["bayer_rggb8", "bayer_gbrg16", "mono16", "rgba8"])
def test_odd_sizes(name: str, size: tuple[int, int]) -> None:
    rgb = scene(*size)
    rows = packed(name, rgb, big=False)
    image = Image(HEADER, size[1], size[0], name, 0, rows.shape[1], rows.tobytes())
    assert decoded(image).shape == rgb.shape


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("16UC1", "depth in millimetres"),
        ("32FC1", "depth in metres"),
        ("nv24", "expected an image of"),
        ("", "expected an image of"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(name: str, words: str) -> None:
    image = Image(HEADER, 2, 2, name, 0, 8, bytes(16))
    with pytest.raises(WireError, match=words):
        raw(image, Numbering("cam0", bytes(16)), 1)


@pytest.mark.parametrize("name", KNOWN)
def test_lengths_that_lie_are_refused(name: str) -> None:
    for height, width, step, length in ((48, 64, 10, 480), (48, 64, 512, 7), (0, 0, 0, 0)):
        image = Image(HEADER, height, width, name, 0, step, bytes(length))
        with pytest.raises(WireError):
            raw(image, Numbering("cam0", bytes(16)), 1)


def test_compressed_depth_is_refused_by_name() -> None:
    image = CompressedImage(HEADER, "16UC1; compressedDepth png", b"\0" * 12 + b"\x89PNG")
    with pytest.raises(WireError, match="is depth"):
        compressed(image, Numbering("cam0", bytes(16)), 1)
