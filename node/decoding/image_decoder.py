"""Compressed pictures to RGB, with the checks that OpenCV leaves out."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image
from ureca.errors import SourceError, WireError
from ureca.protocol.image_header import any_picture_size

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_DEFAULT_MAX_PX = 1 << 25


def decode_picture(data: bytes, *, max_px: int = _DEFAULT_MAX_PX) -> Image:
    """`data` as u8 [H, W, 3] RGB.

    Raises `SourceError` for what is no picture, is cut off, or has more than `max_px` pixels.
    """
    _check_size(data, max_px)
    if data[:2] == _JPEG_START and not data.rstrip(b"\0").endswith(_JPEG_END):
        raise SourceError("the JPEG is cut off: its end marker is missing")
    try:
        rgb = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error as error:
        raise SourceError(f"the picture cannot be decoded: {error.err or 'unknown'}") from error
    if rgb is None:
        raise SourceError(f"{len(data)} bytes that are no readable picture")
    return np.asarray(rgb, np.uint8)


def _check_size(data: bytes, max_px: int) -> None:
    """By the file's own header: a small file may unpack to gigabytes."""
    try:
        width, height = any_picture_size(data)
    except WireError as error:
        raise SourceError(f"{len(data)} bytes that are no readable picture: {error}") from error
    if not 0 < width * height <= max_px:
        raise SourceError(f"a picture of {width}x{height} exceeds the limit of {max_px} pixels")


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
