"""Measures how much a region has changed since its caption, at a fraction of the cost of a caption.

A `AppearanceSnapshot` is a snapshot of the region on a small grid: colours of the region and of a
rim around it, and the outline. `change` compares it with a later frame, at the old and at the new
place of the region, and uses the smaller difference. So sensor noise, an unsteady outline and a
slow camera drift are no change, while a thing put into a bowl is one, even if most of the bowl
stays the same. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image, Mask
from ureca.node.masks.geometry import Box

F32 = npt.NDArray[np.float32]

_CELLS = 16
_MIN_CELL_PX = 3
"""A cell averages at least 3 x 3 pixels: the noise of single ones would be a change."""
_RIM = 0.15
"""How much the compared area exceeds the box, on each side."""
_RIM_WEIGHT = 0.5
"""What happens beside a region counts half: captions name it less often."""
_MAX_LIGHT = 15.0
"""Lightness that a whole region may gain or lose (0..255 scale): exposure is no change."""
_WORST_SHARE = 0.06
"""The difference is the mean over this share of the cells, the worst ones: a part is enough."""


@dataclass(frozen=True, slots=True)
class AppearanceSnapshot:
    """A region at one moment: `lab` f32 [g, g, 3] (OpenCV's 8-bit Lab scale), `inside` f32 [g, g]
    (0..1, how much of each cell is the region), both over `box_xyxy_px` widened by a rim, in a
    frame of `frame_size` (height, width).
    """

    box_xyxy_px: Box
    frame_size: tuple[int, int]
    lab: F32
    inside: F32


def take_snapshot(image: Image, mask: Mask, box: Box) -> AppearanceSnapshot:
    """The snapshot of a region: `image` u8
    [H, W, 3] RGB, `mask` bool [H, W], `box` its tight box.
    """
    cells = max(2, min(_CELLS, min(box[2] - box[0], box[3] - box[1]) // _MIN_CELL_PX))
    return AppearanceSnapshot(box, mask.shape, *_grids(image, mask, box, cells))


def measure_change(
    snapshot: AppearanceSnapshot, image: Image, mask: Mask, box: Box
) -> tuple[float, float]:
    """The difference between `look` and the region now: in colours (Lab units) and in outline
    (0..1).
    """
    cells = snapshot.inside.shape[0]
    lab, inside = _grids(image, mask, box, cells)
    outline = float(np.abs(inside - snapshot.inside).sum() / max(1.0, snapshot.inside.sum()))
    colours = _distance(snapshot, lab)
    before = _resize_box(snapshot.box_xyxy_px, snapshot.frame_size, mask.shape)
    if box != before:
        there, _ = _grids(image, mask, before, cells)
        colours = min(colours, _distance(snapshot, there))
    return colours, outline


def _distance(snapshot: AppearanceSnapshot, lab: F32) -> float:
    gained = lab - snapshot.lab
    gained[..., 0] -= np.clip(np.median(gained[..., 0]), -_MAX_LIGHT, _MAX_LIGHT)
    weight = _RIM_WEIGHT + (1 - _RIM_WEIGHT) * snapshot.inside
    distance = np.sort((np.linalg.norm(gained, axis=2) * weight).ravel())
    worst = max(1, round(_WORST_SHARE * distance.size))
    return float(distance[-worst:].mean())


def _grids(image: Image, mask: Mask, box: Box, cells: int) -> tuple[F32, F32]:
    """Colours f32 [g, g, 3] and share of the region f32 [g, g] over the widened box; what lies
    outside the picture repeats its edge.
    """
    rows, columns = _window(box, mask.shape)
    rgb = cv2.resize(image[rows, columns], (cells, cells), interpolation=cv2.INTER_AREA)
    lab = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), np.float32)
    inside = np.ascontiguousarray(mask[rows, columns]).view(np.uint8)
    share = cv2.resize(inside * 255, (cells, cells), interpolation=cv2.INTER_AREA)
    return lab, np.asarray(share / np.float32(255), np.float32)


def _resize_box(box: Box, before: tuple[int, ...], now: tuple[int, ...]) -> Box:
    """The same place in a frame of another height and width, at least one pixel."""
    if before == now:
        return box
    down, across = now[0] / before[0], now[1] / before[1]
    x0, y0 = int(box[0] * across), int(box[1] * down)
    return x0, y0, max(x0 + 1, round(box[2] * across)), max(y0 + 1, round(box[3] * down))


def _window(box: Box, shape: tuple[int, ...]) -> tuple[slice, slice]:
    x0, y0, x1, y1 = box
    rim_x, rim_y = round(_RIM * (x1 - x0)), round(_RIM * (y1 - y0))
    return (
        slice(max(0, y0 - rim_y), min(shape[0], y1 + rim_y)),
        slice(max(0, x0 - rim_x), min(shape[1], x1 + rim_x)),
    )
