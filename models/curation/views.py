"""What an annotator is shown of a region: cut out, outlined, with its surroundings blurred.

Coordinates are pixels of the picture; pictures are u8 [H, W, 3] RGB, masks bool [H, W].
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ureca.datatypes import Image, Mask

_LINE = (255, 221, 0)
_LINE_PX = 3
_BLUR_SHARE = 0.08
"""Sigma by the longer side: on a 1,250-pixel picture URECA's 100."""
_MARGIN = 0.15
_MIN_SIDE_PX = 224
_COLOURS = (
    (30, 90, 255),
    (230, 60, 60),
    (40, 180, 90),
    (250, 160, 30),
    (160, 70, 220),
    (20, 190, 200),
    (240, 100, 170),
    (140, 120, 60),
)


def outlined(image: Image, mask: Mask) -> Image:
    """The whole picture with a line around the region."""
    return _lined(image.copy(), mask, _LINE)


def alone(image: Image, mask: Mask) -> Image:
    """The region's box with a margin, everything else blurred."""
    return cut(_blurred_around(image, mask), mask)


def within(image: Image, mask: Mask, thing: Mask) -> Image:
    """The thing that a part belongs to, cut out, with a line around the part."""
    return cut(_lined(_blurred_around(image, thing), mask, _LINE), thing)


def numbered(image: Image, masks: Sequence[Mask]) -> Image:
    """Similar regions in numbered lines, cut to their joint box; number 0 is the first."""
    canvas = image.copy()
    for number, mask in enumerate(masks):
        _lined(canvas, mask, _COLOURS[number % len(_COLOURS)])
    for number, mask in enumerate(masks):
        _number(canvas, mask, number)
    return cut(canvas, np.logical_or.reduce(list(masks)))


def cut(image: Image, mask: Mask) -> Image:
    """The box of a mask with a margin, enlarged where it is tiny."""
    part = image[box_with_margin(mask, _MARGIN)]
    scale = min(4.0, max(1.0, _MIN_SIDE_PX / max(part.shape[:2])))
    if scale > 1:
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    return np.ascontiguousarray(part, np.uint8)


def box_with_margin(mask: Mask, margin: float) -> tuple[slice, slice]:
    """Rows and columns of a mask's box, grown by `margin` of its sides on every side."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    dx, dy = round(width * margin) + 1, round(height * margin) + 1
    return slice(max(0, y - dy), y + height + dy), slice(max(0, x - dx), x + width + dx)


def png(image: Image) -> bytes:
    """A picture as PNG."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert ok, "a picture in memory can be encoded"
    return data.tobytes()


def _blurred_around(image: Image, mask: Mask) -> Image:
    soft = cv2.GaussianBlur(image, (0, 0), _BLUR_SHARE * max(image.shape[:2]))
    return np.where(mask[..., None], image, soft).astype(np.uint8)


def _lined(canvas: Image, mask: Mask, colour: tuple[int, int, int]) -> Image:
    found = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(canvas, found, -1, colour, _LINE_PX, cv2.LINE_AA)
    return canvas


def _number(canvas: Image, mask: Mask, number: int) -> None:
    inside = cv2.distanceTransform(np.pad(mask.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    at = (max(0, int(x) - 6), min(canvas.shape[0] - 2, int(y) + 6))
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(
            canvas, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, thickness, cv2.LINE_AA
        )
