"""Draws the views of a region for a server: cut out, outlined, with blurred surroundings.

Coordinates are pixels of the image; images are u8 [H, W, 3] RGB, masks bool [H, W].
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


def draw_outlined(image: Image, mask: Mask) -> Image:
    """Draw the whole image with a line around the region."""
    return _draw_line(image.copy(), mask, _LINE)


def draw_alone(image: Image, mask: Mask) -> Image:
    """Draw the region's box with a margin and blur everything else."""
    return crop_with_margin(_blur_around(image, mask), mask)


def draw_within(image: Image, mask: Mask, thing: Mask) -> Image:
    """Cut out the object of a part, with a line around the part."""
    return crop_with_margin(_draw_line(_blur_around(image, thing), mask, _LINE), thing)


def draw_numbered(image: Image, masks: Sequence[Mask]) -> Image:
    """Draw numbered lines around similar regions, cut to their joint box; number 0 is the first."""
    canvas = draw_numbers(image, masks, first=0)
    return crop_with_margin(canvas, np.logical_or.reduce(list(masks)))


def draw_numbers(image: Image, masks: Sequence[Mask], *, first: int) -> Image:
    """Draw the whole image with numbered lines around regions; the first has the number `first`."""
    canvas = image.copy()
    for number, mask in enumerate(masks):
        _draw_line(canvas, mask, _COLOURS[number % len(_COLOURS)])
    for number, mask in enumerate(masks, first):
        _draw_number(canvas, mask, number)
    return canvas


def crop_with_margin(image: Image, mask: Mask, *, margin: float = _MARGIN) -> Image:
    """Cut out the box of a mask with a margin (a share of its sides), enlarged if it is tiny."""
    part = image[compute_box_with_margin(mask, margin)]
    scale = min(4.0, max(1.0, _MIN_SIDE_PX / max(part.shape[:2])))
    if scale > 1:
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    return np.ascontiguousarray(part, np.uint8)


def compute_box_with_margin(mask: Mask, margin: float) -> tuple[slice, slice]:
    """Return rows and columns of a mask's box, grown by `margin` of its sides on every side."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    dx, dy = round(width * margin) + 1, round(height * margin) + 1
    return slice(max(0, y - dy), y + height + dy), slice(max(0, x - dx), x + width + dx)


def shrink(image: Image, max_side_px: int) -> Image:
    """Return the image with its longer side at most `max_side_px`; smaller ones as they are."""
    scale = max_side_px / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def shrink_mask(mask: Mask, max_side_px: int) -> Mask:
    """As `shrink`: a pixel is set if any pixel below it was, so that no region vanishes."""
    return shrink(mask.astype(np.uint8) * np.uint8(255), max_side_px) > 0


def encode_jpeg(image: Image, *, quality: int = 90) -> bytes:
    """Encode an image as JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert ok, "a picture in memory can be encoded"
    return data.tobytes()


def encode_png(image: Image) -> bytes:
    """Encode an image as PNG."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert ok, "a picture in memory can be encoded"
    return data.tobytes()


def _blur_around(image: Image, mask: Mask) -> Image:
    soft = cv2.GaussianBlur(image, (0, 0), _BLUR_SHARE * max(image.shape[:2]))
    return np.where(mask[..., None], image, soft).astype(np.uint8)


def _draw_line(canvas: Image, mask: Mask, colour: tuple[int, int, int]) -> Image:
    found = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(canvas, found, -1, colour, _LINE_PX, cv2.LINE_AA)
    return canvas


def _draw_number(canvas: Image, mask: Mask, number: int) -> None:
    inside = cv2.distanceTransform(np.pad(mask.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    at = (max(0, int(x) - 6), min(canvas.shape[0] - 2, int(y) + 6))
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(
            canvas, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, thickness, cv2.LINE_AA
        )
