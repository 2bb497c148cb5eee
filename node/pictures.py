"""Compressed pictures to RGB, with the checks that OpenCV leaves out."""

from __future__ import annotations

import cv2
import numpy as np

from ureca.datatypes import Image
from ureca.errors import SourceError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_DEFAULT_MAX_PX = 1 << 25


def decode_picture(data: bytes, *, max_px: int = _DEFAULT_MAX_PX) -> Image:
    """`data` as u8 [H, W, 3] RGB.

    Raises `SourceError` for what is no picture, is cut off, or has more than `max_px` pixels.
    """
    if data[:2] == _JPEG_START and not data.rstrip(b"\0").endswith(_JPEG_END):
        raise SourceError("the JPEG is cut off: its end marker is missing")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:
        raise SourceError(f"the picture cannot be decoded: {error.err or 'unknown'}") from error
    if bgr is None:
        raise SourceError(f"{len(data)} bytes that are no readable picture")
    if bgr.shape[0] * bgr.shape[1] > max_px:
        raise SourceError(
            f"a picture of {bgr.shape[1]}x{bgr.shape[0]} exceeds the limit of {max_px} pixels"
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
