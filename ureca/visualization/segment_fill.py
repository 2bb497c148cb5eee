"""Fills every pixel of a picture by its segment: one colour lookup for the whole id map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask
from ureca.extras import require
from ureca.visualization.palette import Rgb
from ureca.visualization.text import EXTRA

U8 = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
MAX_SEGMENTS = 255
_BORDER = 24
"""Grey value of the line between segments: dark on every fill, so that it needs no colours."""


def paint_ids(ids: U8, regions: Iterable[tuple[int, Mask, Box]]) -> None:
    """Write each region's number where its mask bool [H, W] is set, in place, large ones first.

    `ids` is [H, W]; the box (x0, y0, x1, y1) in pixels holds the mask.
    """
    for number, mask, (x0, y0, x1, y1) in sorted(
        regions, key=lambda one: -int(np.count_nonzero(one[1]))
    ):
        part = slice(max(0, y0), max(0, y1)), slice(max(0, x0), max(0, x1))
        ids[part][mask[part]] = number


def fill_segments(canvas: Image, ids: U8, fills: Sequence[tuple[Rgb, float]]) -> None:
    """Tint `canvas`, RGB u8 [H, W, 3], in place, and draw a dark line between segments.

    Pixels of `ids` [H, W] with value n get the colour and the share 0..1 of `fills[n - 1]`; those
    with 0 stay as they are. At most 255 fills. Raises `MissingExtraError` without the `render`
    extra.
    """
    cv2: Any = require("cv2", extra=EXTRA)
    keeps = np.full((256, 1, 1), 255, np.uint8).repeat(3, axis=2)
    tints = np.zeros((256, 1, 3), np.uint8)
    for number, (colour, share) in enumerate(fills, 1):
        keeps[number] = 255 - round(255 * share)
        tints[number] = np.array(colour) * share
    values = cv2.merge([ids] * 3)
    cv2.multiply(canvas, cv2.LUT(values, keeps), dst=canvas, scale=1 / 255)
    cv2.add(canvas, cv2.LUT(values, tints), dst=canvas)
    canvas[_borders(ids)] = _BORDER


def _borders(ids: U8) -> Mask:
    """The pixels bool [H, W] to the right of another segment, or below one."""
    edges = np.zeros(ids.shape, np.bool_)
    edges[:, 1:] = ids[:, 1:] != ids[:, :-1]
    edges[1:] |= ids[1:] != ids[:-1]
    return edges
