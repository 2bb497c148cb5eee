"""Finds lost regions: as a piece that is not background, or by a stored template.

Strict on purpose: a wrong recovery captions the wrong thing, a missed one only takes longer.
Work-sized pictures throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ureca.datatypes import Mask
from ureca.node.masks.color_histogram import F32, U8
from ureca.node.tracking.mask_propagation import WorkImage
from ureca.node.tracking.still_background import StillBackground

_SCALES = (1.0, 0.92, 1.09, 0.85, 1.19)
_MARGIN_PX = 2
_MIN_SIDE_PX = 10
_COARSE_SIDE_PX = 4
"""The least side of a template on the picture of half the size."""
_SURE_SIDE_PX, _PEAKS = 20, 4
"""Of a template with a shorter side so many of the best places are looked at in full: at half the
size it has too few pixels to tell them apart."""
_TEXTURED = 12.0
"""Deviation of the colours inside a region above which they are also searched for alone."""
_EMPTY, _SHOWN = -0.5, 0.5
"""The background's cue below which a pixel shows it, and above which it shows something else."""
_LEAST_PIECE, _LEAST_REST, _MOST_PIECE = 0.25, 0.55, 1.6
"""Shares of a region's usual area that a piece, or what another region leaves of one, may have that
it is found as."""
_MAX_PIECES, _SPECK_PX = 16, 20
_REFINE_PX = 3
_MIN_CONTRAST = 6.0
"""Grey-level deviation below which a template is too flat to correlate with anything."""


@dataclass(frozen=True, slots=True)
class RegionTemplate:
    """A template of a region: its crop u8 [h, w, 3] and soft mask f32 [h, w]."""

    rgb: U8
    soft: F32

    def resized(self, down: float, across: float) -> RegionTemplate:
        """The template for pictures whose height is `down` and whose width is `across` times as
        large.
        """
        height, width = self.soft.shape
        size = max(1, round(width * across)), max(1, round(height * down))
        rgb = cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA)
        soft = cv2.resize(self.soft, size, interpolation=cv2.INTER_LINEAR)
        return RegionTemplate(rgb=np.asarray(rgb, np.uint8), soft=np.asarray(soft, np.float32))


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


class LostSearch:
    """One pass over the newest picture for all lost regions.

    Before a fixed camera only what is not background is looked at, first as whole pieces, which
    costs next to nothing. Templates are correlated with a picture of half the size, and again in
    full around the best place.
    """

    def __init__(self, picture: WorkImage, background: StillBackground) -> None:
        self._picture = picture
        self._is_empty = background.cue < _EMPTY if background.is_known else None
        self._small: U8 | None = None
        self._pieces = _pieces_of(background.cue > _SHOWN) if background.is_known else []

    def pieces(self, area_px: float, taken: Mask) -> list[F32]:
        """Things that are not background and not `taken`, bool [h, w], as soft masks of the whole
        picture, of an area that a region of `area_px` may have while it comes into view.
        """
        found = []
        for piece in self._pieces:
            free = piece & ~taken
            least = _LEAST_PIECE if np.array_equal(free, piece) else _LEAST_REST
            if least * area_px <= np.count_nonzero(free) <= _MOST_PIECE * area_px:
                found.append(free.astype(np.float32))
        return found

    def redetect(self, template: RegionTemplate, taken: Mask) -> Redetection | None:
        """The best place of `template` over all scales whose middle is not `taken` bool [h, w];
        None when it fits nowhere, or before the background only.
        """
        blocked = taken if self._is_empty is None else taken | self._is_empty
        area_px = np.count_nonzero(template.soft > 0.5)
        if blocked.size - np.count_nonzero(blocked) < _LEAST_PIECE * area_px:
            return None
        picture, places = self._half(), list[tuple[float, int, int, float]]()
        count = 1 if min(template.rgb.shape[:2]) >= _SURE_SIDE_PX else _PEAKS
        for scale in _SCALES:
            rgb, soft = _scaled(template, scale / 2, _COARSE_SIDE_PX)
            if rgb.shape[0] > picture.shape[0] or rgb.shape[1] > picture.shape[1]:
                continue
            found = _match(picture, rgb, soft, taken, count=count)
            places += [(*place, scale) for place in found]
        likely = sorted(places, reverse=True)[:count]
        exact = [self._placed(template, scale, x, y) for _, x, y, scale in likely]
        best = max((one for one in exact if one), key=lambda one: one.score, default=None)
        return None if best is None or self._is_on_background(best.soft) else best

    def _half(self) -> U8:
        if self._small is None:
            size = (self._picture.size[1] // 2, self._picture.size[0] // 2)
            small = cv2.resize(self._picture.rgb, size, interpolation=cv2.INTER_AREA)
            self._small = np.asarray(small, np.uint8)
        return self._small

    def _placed(self, template: RegionTemplate, scale: float, x: int, y: int) -> Redetection | None:
        """The template near that place of the half picture, with exact score and place."""
        rgb, soft = _scaled(template, scale, _MIN_SIDE_PX)
        height, width = self._picture.size
        if rgb.shape[0] > height or rgb.shape[1] > width:
            return None
        top = min(max(0, 2 * y - _REFINE_PX), height - rgb.shape[0])
        left = min(max(0, 2 * x - _REFINE_PX), width - rgb.shape[1])
        bottom = top + rgb.shape[0] + 2 * _REFINE_PX
        near = self._picture.rgb[top:bottom, left : left + rgb.shape[1] + 2 * _REFINE_PX]
        ((score, x, y),) = _match(near, rgb, soft, None, count=1)
        x, y = x + left, y + top
        placed = np.zeros(self._picture.size, np.float32)
        placed[y : y + soft.shape[0], x : x + soft.shape[1]] = soft
        return Redetection(score=score, soft=placed)

    def _is_on_background(self, soft: F32) -> bool:
        if self._is_empty is None:
            return False
        inside = soft > 0.5
        return bool(self._is_empty[inside].mean() > 0.5) if inside.any() else True


def _pieces_of(shown: Mask) -> list[Mask]:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(shown.astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    largest = 1 + np.argsort(-areas, kind="stable")[:_MAX_PIECES]
    return [np.asarray(parts == part, np.bool_) for part in largest if areas[part - 1] >= _SPECK_PX]


def _match(
    picture: U8, rgb: U8, soft: F32, taken: Mask | None, *, count: int
) -> list[tuple[float, int, int]]:
    """The `count` best correlations of `rgb` with the picture, and where, best first.

    Tried with what lay around the region, by which plain things are found, and without it, since
    textured things may stand before something else now.
    """
    free = None if taken is None else _free_places(taken, picture.shape[:2], rgb.shape[:2])
    scores = _usable(cv2.matchTemplate(picture, rgb, cv2.TM_CCOEFF_NORMED), free)
    inside = soft > 0.5
    if inside.any() and float(rgb[inside].std(axis=0).mean()) >= _TEXTURED:
        mask = np.repeat(inside[..., None], 3, axis=2).astype(np.float32)
        alone = cv2.matchTemplate(picture, rgb, cv2.TM_CCOEFF_NORMED, mask=mask)
        scores = np.maximum(scores, _usable(alone, free))
    return _peaks(scores, rgb.shape[:2], count)


def _free_places(taken: Mask, size: tuple[int, int], part: tuple[int, int]) -> Mask:
    """The places of a template of size `part` whose middle is free, on a picture of `size`."""
    if taken.shape != size:
        small = cv2.resize(
            taken.view(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST
        )
        taken = np.asarray(small > 0, np.bool_)
    top, left = part[0] // 2, part[1] // 2
    return ~taken[top : top + size[0] - part[0] + 1, left : left + size[1] - part[1] + 1]


def _usable(scores: cv2.typing.MatLike, free: Mask | None) -> F32:
    is_usable = np.isfinite(scores) if free is None else np.isfinite(scores) & free
    return np.where(is_usable, scores, np.float32(-1))


def _peaks(scores: F32, part: tuple[int, int], count: int) -> list[tuple[float, int, int]]:
    """Scores and places x, y of the `count` best places that are half a template apart."""
    found, tall, wide = list[tuple[float, int, int]](), max(1, part[0] // 2), max(1, part[1] // 2)
    for _ in range(count):
        _, score, _, (x, y) = cv2.minMaxLoc(scores)
        found.append((float(score), int(x), int(y)))
        scores[max(0, y - tall) : y + tall + 1, max(0, x - wide) : x + wide + 1] = -1
    return found


def _scaled(template: RegionTemplate, scale: float, least_px: int) -> tuple[U8, F32]:
    if scale == 1.0:
        return template.rgb, template.soft
    size = (
        max(least_px, round(template.rgb.shape[1] * scale)),
        max(least_px, round(template.rgb.shape[0] * scale)),
    )
    rgb = np.asarray(cv2.resize(template.rgb, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return rgb, np.asarray(
        cv2.resize(template.soft, size, interpolation=cv2.INTER_LINEAR), np.float32
    )
