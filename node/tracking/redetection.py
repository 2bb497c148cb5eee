"""Finds a lost region by its stored template: template correlation over scales, then a colour
check.

Strict on purpose: a wrong recovery captions the wrong thing, a missed one only takes longer.
Work-sized pictures throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ureca.node.masks.color_histogram import F32, U8
from ureca.node.tracking.mask_propagation import WorkImage

_SCALES = (1.0, 0.92, 1.09, 0.85, 1.19)
_MARGIN_PX = 2
_MIN_SIDE_PX = 10
_TEXTURED = 12.0
"""Deviation of the colours inside a region above which they are also searched for alone."""
_MIN_CONTRAST = 6.0
"""Grey-level deviation below which a template is too flat to correlate with anything."""


@dataclass(frozen=True, slots=True)
class RegionTemplate:
    """A template of a region: its crop u8 [h, w, 3] and soft mask f32 [h, w]."""

    rgb: U8
    soft: F32


@dataclass(frozen=True, slots=True)
class Redetection:
    """Where a template was found: correlation score and soft mask f32 of the whole work picture."""

    score: float
    soft: F32


def take_template(picture: WorkImage, soft: F32) -> RegionTemplate | None:
    """The template of the region `soft` on `picture`; None when it is too small or too flat to find
    again.
    """
    ys, xs = np.flatnonzero((soft > 0.5).any(axis=1)), np.flatnonzero((soft > 0.5).any(axis=0))
    if not len(ys):
        return None
    rows = slice(max(0, int(ys[0]) - _MARGIN_PX), int(ys[-1]) + 1 + _MARGIN_PX)
    cols = slice(max(0, int(xs[0]) - _MARGIN_PX), int(xs[-1]) + 1 + _MARGIN_PX)
    crop = picture.rgb[rows, cols]
    if min(crop.shape[:2]) < _MIN_SIDE_PX or float(picture.gray[rows, cols].std()) < _MIN_CONTRAST:
        return None
    return RegionTemplate(rgb=crop.copy(), soft=soft[rows, cols].copy())


def redetect(picture: WorkImage, template: RegionTemplate) -> Redetection | None:
    """The best place of `template` on `picture` over all scales; None when it fits nowhere."""
    best: Redetection | None = None
    for scale in _SCALES:
        rgb, soft = _scaled(template, scale)
        if rgb.shape[0] > picture.size[0] or rgb.shape[1] > picture.size[1]:
            continue
        score, x, y = _match(picture, rgb, soft)
        if best is None or score > best.score:
            placed = np.zeros(picture.size, np.float32)
            placed[y : y + soft.shape[0], x : x + soft.shape[1]] = soft
            best = Redetection(score=float(score), soft=placed)
    return best


def _match(picture: WorkImage, rgb: U8, soft: F32) -> tuple[float, int, int]:
    """The best correlation of `rgb` with the picture, and where.

    Tried with what lay around the region, by which plain things are found, and without it, since
    textured things may stand before something else now.
    """
    found = [_peak(cv2.matchTemplate(picture.rgb, rgb, cv2.TM_CCOEFF_NORMED))]
    inside = soft > 0.5
    if inside.any() and float(rgb[inside].std(axis=0).mean()) >= _TEXTURED:
        mask = np.repeat(inside[..., None], 3, axis=2).astype(np.float32)
        found.append(_peak(cv2.matchTemplate(picture.rgb, rgb, cv2.TM_CCOEFF_NORMED, mask=mask)))
    return max(found)


def _peak(scores: cv2.typing.MatLike) -> tuple[float, int, int]:
    finite = np.where(np.isfinite(scores), scores, -1.0)
    _, score, _, (x, y) = cv2.minMaxLoc(finite)
    return float(score), int(x), int(y)


def _scaled(template: RegionTemplate, scale: float) -> tuple[U8, F32]:
    if scale == 1.0:
        return template.rgb, template.soft
    size = (
        max(_MIN_SIDE_PX, round(template.rgb.shape[1] * scale)),
        max(_MIN_SIDE_PX, round(template.rgb.shape[0] * scale)),
    )
    rgb = np.asarray(cv2.resize(template.rgb, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return rgb, np.asarray(
        cv2.resize(template.soft, size, interpolation=cv2.INTER_LINEAR), np.float32
    )
