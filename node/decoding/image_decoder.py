"""Decodes compressed images to RGB, with the checks that OpenCV lacks."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image
from ureca.errors import SourceError, WireError
from ureca.protocol.image_header import first_picture, measure
from ureca.protocol.picture_facts import PictureFacts

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_DEFAULT_MAX_PX = 1 << 25
_T = TypeVar("_T", bound=np.generic)
Pixels = npt.NDArray[np.integer[Any]]
_JPEG_END = b"\xff\xd9"
_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_PIXELS_OF_NOISE = bytes.fromhex("5aa533cc6996") * 48
"""Bits that a decoder takes for further pixels, if it lacks some."""


def decode_picture(data: bytes, *, max_px: int = _DEFAULT_MAX_PX) -> Image:
    """`data` as u8 [H, W, 3] RGB, turned as its EXIF orientation says. Bytes behind the picture's
    own end are ignored.

    Raises `SourceError` for what is no JPEG, PNG, WebP or BMP, is cut off, or has more than
    `max_px` pixels.
    """
    facts = measure_picture(data, max_px=max_px)
    picture = first_picture(data, facts)
    decode = _decode_rgb if facts.is_ended else _decode_without_end
    rgb = decode(picture, facts)
    return turned_upright(rgb, facts.orientation)


def measure_picture(data: bytes, *, max_px: int) -> PictureFacts:
    """The facts of a picture that a decoder may see. Raises `SourceError` for every other one."""
    try:
        facts = measure(data)
    except WireError as error:
        raise SourceError(f"{len(data)} bytes that are no readable image: {error}") from error
    if facts.width < 1 or facts.height < 1 or facts.width * facts.height > max_px:
        raise SourceError(
            f"a picture of {facts.width}x{facts.height} exceeds the limit of {max_px} pixels: send "
            "it smaller, or raise limits.max_image_px where the node decodes it"
        )
    return facts


def decode_unchanged(picture: bytes) -> Pixels:
    """A measured picture as OpenCV stores it: grey, BGR or BGRA of 8 or 16 bits, not turned.

    Raises `SourceError` when OpenCV cannot read it.
    """
    return _decode(picture, cv2.IMREAD_UNCHANGED)


def _decode(picture: bytes, flags: int) -> Pixels:
    """A measured picture. Raises `SourceError` when OpenCV cannot read it."""
    try:
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), flags)
    except cv2.error as error:
        raise SourceError(f"the picture cannot be decoded: {error.err or 'unknown'}") from error
    if pixels is None:
        raise SourceError(f"{len(picture)} bytes that are no readable image")
    return cast("Pixels", pixels)


def _decode_rgb(picture: bytes, facts: PictureFacts) -> Image:
    rgb = _decode(picture, _AS_STORED)
    if rgb.shape != (facts.height, facts.width, 3) or rgb.dtype != np.uint8:
        raise SourceError(f"the picture says {facts.width}x{facts.height}, got {rgb.shape[:2]}")
    return np.asarray(rgb, np.uint8)


def _decode_without_end(picture: bytes, facts: PictureFacts) -> Image:
    """A JPEG without an end marker, as some MJPEG cameras send it, or one that is cut off.

    Decoders fill up what is missing and do not say so. Therefore noise is put behind the data: it
    changes a picture that lacks pixels, and no other. Raises `SourceError` for one that does.
    """
    is_cut = SourceError("the JPEG is cut off: its end marker is missing")
    if not facts.is_sequential:
        raise is_cut
    kept = picture.rstrip(b"\0")
    # 0xFF 0x00 is a byte of the pixels, 0xFF alone the beginning of a marker.
    kept = kept + b"\0" if len(kept) < len(picture) else kept.rstrip(b"\xff")
    restart = b"" if facts.next_restart is None else bytes((0xFF, facts.next_restart))
    rgb = _decode_rgb(kept + _JPEG_END, facts)
    for noise in (_PIXELS_OF_NOISE, restart + _PIXELS_OF_NOISE):
        if not np.array_equal(rgb, _decode_rgb(kept + noise + _JPEG_END, facts)):
            raise is_cut
    return rgb


def turned_upright(image: npt.NDArray[_T], orientation: int) -> npt.NDArray[_T]:
    """An image as stored, [H, W, ...], turned as its EXIF orientation (1..8) says."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def rgb_of(bgr: Image) -> Image:
    """u8 [H, W, 3] BGR as RGB."""
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def decode_nv12(
    data: bytes | npt.NDArray[np.uint8], *, width: int, height: int, stride: int | None = None
) -> Image:
    """NV12 as u8 [height, width, 3] RGB: a plane of luma, then one of interleaved Cb and Cr at half
    the size; BT.601, limited range, as cameras send it.

    `stride` is the bytes of a row in both planes (even width, if None). Raises `SourceError` when
    `data` is not as long as that says.
    """
    half, row = (height + 1) // 2, stride or width + width % 2
    if len(data) != row * (height + half) or row < width + width % 2:
        raise SourceError(f"{len(data)} bytes are no NV12 of {width}x{height} in rows of {row}")
    rows = np.frombuffer(data, np.uint8).reshape(height + half, row)
    even = width + width % 2
    luma = np.empty((2 * half, even), np.uint8)  # odd sides: OpenCV wants even ones
    luma[:height, :width] = rows[:height, :width]
    luma[height:, :width] = rows[height - 1, :width]
    luma[:, width:] = luma[:, width - 1 : width]
    chroma = np.ascontiguousarray(rows[height:, :even]).reshape(half, even // 2, 2)
    rgb = cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2RGB_NV12)
    return np.ascontiguousarray(rgb[:height, :width], np.uint8)
