"""The appearance of a region: colour histograms inside and around it.

Pure functions on small pictures. Histograms are f32 [BINS], smoothed and summing to one.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]

_LIGHT, _CHROMA = 12, 16
BINS = _LIGHT * _CHROMA * _CHROMA
_CHROMA_LOW, _CHROMA_STEP = 80, 6
"""Natural chroma lies within 128 +- 48 of OpenCV's 8-bit Lab; the bins cover that and clip the
rest."""


def colour_bins(rgb: U8) -> I32:
    """The colour bin of each pixel of u8 [h, w, 3] RGB, as i32 [h, w]."""
    lab = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)).astype(np.int32)
    light = lab[..., 0] * _LIGHT // 256
    chroma = np.clip((lab[..., 1:] - _CHROMA_LOW) // _CHROMA_STEP, 0, _CHROMA - 1)
    return np.asarray((light * _CHROMA + chroma[..., 0]) * _CHROMA + chroma[..., 1], np.int32)


def histogram(bins: I32, where: npt.NDArray[np.bool_]) -> F32:
    """The smoothed colour histogram of the pixels `where`; all zero when there are none."""
    counts = np.bincount(bins[where], minlength=BINS).astype(np.float32)
    cube = counts.reshape(_LIGHT, _CHROMA, _CHROMA)
    for axis in range(3):
        cube = _blur(cube, axis)
    total = float(cube.sum())
    return np.asarray(cube.reshape(-1) / max(total, 1e-6), np.float32)


def _blur(cube: F32, axis: int) -> F32:
    """Binomial 1-2-1 smoothing with repeated edges: neighbouring bins are nearly the same
    colour.
    """
    first = np.moveaxis(cube, axis, 0)
    wide = np.concatenate([first[:1], first, first[-1:]])
    blurred = 0.25 * wide[:-2] + 0.5 * wide[1:-1] + 0.25 * wide[2:]
    return np.asarray(np.moveaxis(blurred, 0, axis), np.float32)


def similarity(one: F32, other: F32) -> float:
    """Bhattacharyya coefficient of two histograms: 1 when equal, 0 when disjoint."""
    return float(np.sqrt(one * other).sum())


def evidence(bins: I32, inside: F32, around: F32) -> F32:
    """Log-likelihood ratio f32 [h, w], clipped to +-3, that each pixel belongs to the region."""
    ratio = np.log((inside + 1e-4) / (around + 1e-4)).clip(-3, 3).astype(np.float32)
    return np.asarray(cv2.blur(ratio[bins], (3, 3)), np.float32)


def surround(mask: npt.NDArray[np.bool_], *, radius_px: int) -> npt.NDArray[np.bool_]:
    """The ring of `radius_px` around a mask bool [h, w]."""
    size = 2 * radius_px + 1
    binary = np.ascontiguousarray(mask).view(np.uint8)
    grown = cv2.dilate(binary, np.ones((size, size), np.uint8))
    return np.asarray((grown > 0) & ~mask, np.bool_)
