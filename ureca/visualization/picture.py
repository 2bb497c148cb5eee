"""Draws regions on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ureca.datatypes import Image, Mask
from ureca.extras import require
from ureca.visualization.label_placement import Box, LabelRequest, Place, place
from ureca.visualization.palette import STALE, Rgb
from ureca.visualization.segment_fill import MAX_SEGMENTS, U8, fill_segments
from ureca.visualization.text import EXTRA, Sprite, sprite

_MIN_WIDTH_PX = 480
"""Narrower images are enlarged by a whole number, so that captions fit."""
_FILL, _FILL_STALE = 0.33, 0.2
_FILL_THING, _FILL_STUFF = 0.6, 0.3
"""Of segments: stuff lets more of the picture through than things."""
_BACKING = 0.55
_PAD_PX = 4


@dataclass(frozen=True, slots=True)
class Shown:
    """One region to draw: `mask` bool [H, W] or None (then its box is dashed), `text` maybe empty.

    `stale` draws it in grey: its caption has expired, or its place is unknown. `name` identifies it
    from image to image. `is_stuff` fills its segment lighter.
    """

    name: str
    box_xyxy_px: tuple[int, int, int, int]
    colour: Rgb
    text: str = ""
    mask: Mask | None = None
    stale: bool = False
    is_stuff: bool = False


Memory = dict[str, Place]
"""Where each region's caption stood, from its box; keep one per video."""


def annotated(
    image: Image,
    regions: Sequence[Shown],
    *,
    title: str = "",
    memory: Memory | None = None,
    ids: U8 | None = None,
) -> Image:
    """A copy of `image`, RGB u8 [H, W, 3], with masks and captions; narrow ones enlarged.

    `title` is at the lower left; with `memory` captions keep their places. With `ids` u8 [H, W]
    the pixels of `regions[n - 1]` are those of value n: whole segments are filled, not masks.
    Raises `MissingExtraError` without the `render` extra.
    """
    times = max(1, -(-_MIN_WIDTH_PX // image.shape[1]))
    canvas = np.ascontiguousarray(image.repeat(times, 0).repeat(times, 1))
    if ids is not None:
        fills = [(_tint(region), _share(region)) for region in regions[:MAX_SEGMENTS]]
        fill_segments(canvas, np.ascontiguousarray(ids.repeat(times, 0).repeat(times, 1)), fills)
    grown = [_grown(region, times) for region in regions]
    for region in sorted(grown, key=_area, reverse=True):
        if ids is None or region.mask is None:
            _draw_region(canvas, region)
    reserved = [_draw_title(canvas, title)] if title else []
    _draw_words(canvas, [r for r in grown if r.text], reserved, {} if memory is None else memory)
    return canvas


def letters_px(height_px: int) -> int:
    """How large captions are on a picture of this height."""
    return int(np.clip(height_px / 30, 13, 34))


def _grown(region: Shown, times: int) -> Shown:
    if times == 1:
        return region
    mask = None if region.mask is None else region.mask.repeat(times, 0).repeat(times, 1)
    x0, y0, x1, y1 = (edge * times for edge in region.box_xyxy_px)
    return replace(region, box_xyxy_px=(x0, y0, x1, y1), mask=mask)


def _area(region: Shown) -> int:
    x0, y0, x1, y1 = region.box_xyxy_px
    return (x1 - x0) * (y1 - y0)


def _tint(region: Shown) -> Rgb:
    return STALE if region.stale else region.colour


def _share(region: Shown) -> float:
    """How much of a segment's fill is its colour."""
    if region.stale:
        return _FILL_STALE
    return _FILL_STUFF if region.is_stuff else _FILL_THING


def _draw_region(canvas: Image, region: Shown) -> None:
    if region.mask is None or not region.mask.any():
        _dashed(canvas, region.box_xyxy_px, _tint(region))
        return
    cv2: Any = require("cv2", extra=EXTRA)
    tint, share = _tint(region), _FILL_STALE if region.stale else _FILL
    ys, xs = (np.flatnonzero(region.mask.any(axis=axis)) for axis in (1, 0))
    part = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
    inside = region.mask[part]
    under = canvas[part][inside]
    canvas[part][inside] = (under * (1 - share) + np.array(tint) * share).astype(np.uint8)
    binary = np.ascontiguousarray(inside).view(np.uint8)
    corner = (int(xs[0]), int(ys[0]))
    lines = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=corner)[0]
    thick = max(1, letters_px(canvas.shape[0]) // 8)
    cv2.drawContours(canvas, lines, -1, (0, 0, 0), thick + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, lines, -1, tint, thick, cv2.LINE_AA)


def _dashed(canvas: Image, box: tuple[int, int, int, int], tint: Rgb) -> None:
    x0, y0 = max(0, box[0]), max(0, box[1])
    x1, y1 = min(canvas.shape[1], box[2]) - 1, min(canvas.shape[0], box[3]) - 1
    if x1 <= x0 or y1 <= y0:
        return
    dash = max(4, letters_px(canvas.shape[0]) // 2)
    xs = np.arange(x0, x1)[(np.arange(x1 - x0) // dash) % 2 == 0]
    ys = np.arange(y0, y1)[(np.arange(y1 - y0) // dash) % 2 == 0]
    canvas[[[y0], [y1]], xs] = tint
    canvas[ys[:, None], [[x0, x1]]] = tint


def _draw_words(
    canvas: Image, regions: Sequence[Shown], reserved: Sequence[Box], memory: Memory
) -> None:
    height, width = canvas.shape[:2]
    size_px, width_px = letters_px(height), max(120, round(width * 0.36))
    sprites = [sprite(region.text, size_px=size_px, width_px=width_px) for region in regions]
    sizes = [(s.size[0] + 3 * _PAD_PX, s.size[1] + 2 * _PAD_PX) for s in sprites]
    requests = [
        LabelRequest(region.box_xyxy_px, size, memory.get(region.name))
        for region, size in zip(regions, sizes, strict=True)
    ]
    places = place(requests, (width, height), reserved)
    memory.clear()
    for region, size, spot in zip(regions, sizes, places, strict=True):
        if spot is not None:
            x0, y0 = region.box_xyxy_px[:2]
            memory[region.name] = (spot[0] - x0, spot[1] - y0)
            _lead(canvas, region, spot, size)
    for region, drawn, size, spot in zip(regions, sprites, sizes, places, strict=True):
        if spot is not None:
            _chip(canvas, spot, size, _tint(region))
            _write(canvas, drawn, (spot[0] + 2 * _PAD_PX, spot[1] + _PAD_PX), stale=region.stale)


def _lead(canvas: Image, region: Shown, spot: Place, size: Place) -> None:
    """A line from a caption that stands apart to the nearest point of its region's box."""
    cv2: Any = require("cv2", extra=EXTRA)
    x0, y0, x1, y1 = region.box_xyxy_px
    centre = (spot[0] + size[0] // 2, spot[1] + size[1] // 2)
    target = (min(max(centre[0], x0), x1), min(max(centre[1], y0), y1))
    start = tuple(min(max(target[k], spot[k]), spot[k] + size[k]) for k in range(2))
    if max(abs(start[0] - target[0]), abs(start[1] - target[1])) > 2 * _PAD_PX:
        middle = (x0 + x1) // 2, (y0 + y1) // 2
        cv2.line(canvas, start, middle, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.line(canvas, start, middle, _tint(region), 1, cv2.LINE_AA)


def _chip(canvas: Image, spot: Place, size: Place, tint: Rgb) -> None:
    x, y = spot
    part = canvas[y : y + size[1], x : x + size[0]]
    part[:] = (part * (1 - _BACKING)).astype(np.uint8)
    part[:, :_PAD_PX] = tint


def _write(canvas: Image, drawn: Sprite, spot: Place, *, stale: bool) -> None:
    (x, y), (width, height) = spot, drawn.size
    part = canvas[y : y + height, x : x + width]
    ink = np.array(STALE if stale else (255, 255, 255), np.float32)
    rows, columns = part.shape[:2]
    edge = drawn.outlined[:rows, :columns, None].astype(np.float32) / 255
    core = drawn.letters[:rows, :columns, None].astype(np.float32) / 255
    part[:] = (part * (1 - edge)).astype(np.uint8)
    part[:] = (part * (1 - core) + ink * core).astype(np.uint8)


def _draw_title(canvas: Image, title: str) -> Box:
    """Draw it, and say where nothing else may stand."""
    height, width = canvas.shape[:2]
    drawn = sprite(title, size_px=letters_px(height), width_px=width - _PAD_PX, lines=1)
    top = max(0, height - drawn.size[1] - _PAD_PX)
    _write(canvas, drawn, (_PAD_PX, top), stale=False)
    return 0, top, _PAD_PX + drawn.size[0], height
