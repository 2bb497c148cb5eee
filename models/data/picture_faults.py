"""Makes pictures look as other cameras and sites store them: softer, compressed, blurred by motion,
darker or brighter.

Data sets differ in sharpness, and a captioner learns which words belong to which sharpness. Faults
that fall on every set alike leave it nothing to learn.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

_SMALLEST_PX, _LARGEST_PX = 176, 360
_JPEG_QUALITY = (35, 90)
_GAMMA = (0.6, 1.6)
_LONGEST_BLUR_PX = 7


def add_faults(picture: U8, rng: np.random.Generator) -> U8:
    """Return RGB u8 [H, W, 3] of the same size with one or more faults drawn from `rng`."""
    faults = [f for f, chance in _FAULTS if rng.random() < chance]
    for fault in faults or [soften]:
        picture = fault(picture, rng)
    return picture


def soften(picture: U8, rng: np.random.Generator) -> U8:
    """Scale down to a long side of 176 to 360 px and back."""
    height, width = picture.shape[:2]
    factor = rng.uniform(_SMALLEST_PX, _LARGEST_PX) / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def compress(picture: U8, rng: np.random.Generator) -> U8:
    """Encode as JPEG of quality 35 to 90 and decode."""
    quality = int(rng.integers(*_JPEG_QUALITY, endpoint=True))
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def blur_motion(picture: U8, rng: np.random.Generator) -> U8:
    """Average along a line of 3 to 7 px in any direction."""
    length = int(rng.integers(3, _LONGEST_BLUR_PX, endpoint=True))
    line = np.zeros((length, length), np.float32)
    line[length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), rng.uniform(0, 180), 1)
    kernel = cv2.warpAffine(line, turn, (length, length))
    kernel = kernel / kernel.sum()
    return np.asarray(cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.uint8)


def change_exposure(picture: U8, rng: np.random.Generator) -> U8:
    """Apply a gamma of .6 to 1.6."""
    gamma = rng.uniform(*_GAMMA)
    table = np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table), np.uint8)


_FAULTS = ((soften, 0.6), (blur_motion, 0.15), (change_exposure, 0.4), (compress, 0.6))
