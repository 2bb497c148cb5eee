"""How far a region has moved, and which pixels of its mask it left behind.

A pixel that changed while the region was there, and has stood still since then although the region
moved on, is background. Pure.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.node.masks.color_histogram import F32, U8
from ureca.node.tracking.still_background import STILL_PX

_MEMORY = 32
"""Frames over which motion is remembered."""
_TRAVEL_PX = 3.0
"""A region that has moved so far since a pixel stands still does not own the pixel."""
_MIN_RUN = 2
_STANDS_PX, _SETTLED_RUN = 1.0, 4
"""A region that has moved less for so many frames stands."""
_PIECE_SHARE, _APART_PX = 0.25, 1.0
"""Pieces of so much of the mask, whose steps differ by more, are not of one thing."""
_VELOCITY_FRAMES = 12
_FAR_SHARE = 1.0
"""Of its width: a region that has moved so far stands elsewhere."""
_MOVING_SHARE = 0.2
"""A region moves when so much of it does."""
_CORE_FRAMES, _CORE_SHARE = 10, 0.25
"""A region of which so much has stood still for so long moves only in part, as a person who waves:
nothing that stands still is taken from it."""


class RegionMotion:
    """The way of one region."""

    def __init__(self) -> None:
        self._age = 0
        self._places = np.zeros((1, 2), np.float64)

    def advance(self, inside: Mask, flow: F32) -> None:
        """Take in one more frame: of its mask bool [h, w], moved there by `flow` f32 [h, w, 2]."""
        self._age += 1
        self._step(inside, flow)

    def left_behind(self, inside: Mask, runs: U8) -> Mask:
        """The pixels of its mask bool [h, w] that stand still while it moves on; `runs` u8 [h, w]
        counts the frames for which a pixel has stood still.
        """
        core = np.count_nonzero(inside & (runs >= min(_CORE_FRAMES, self._age)))
        if not self._moves or core >= _CORE_SHARE * np.count_nonzero(inside):
            return np.zeros_like(inside)
        has_left = self._travel_px() >= _TRAVEL_PX
        has_left[:_MIN_RUN] = False
        has_left[self._age :] = False
        return np.asarray(inside & has_left[runs], np.bool_)

    def own_piece(self, soft: F32, flow: F32) -> F32:
        """`soft` f32 [h, w] without the pieces that move another way than the one that moves most
        like the region did: a mask that is torn so has taken in a neighbour.
        """
        count, parts, stats, _ = cv2.connectedComponentsWithStats((soft > 0.5).astype(np.uint8))
        areas = stats[1:count, cv2.CC_STAT_AREA]
        large = 1 + np.flatnonzero(areas >= _PIECE_SHARE * areas.sum())
        if len(large) < 2:
            return soft
        steps = np.array([-np.median(flow[parts == part], axis=0) for part in large])
        away = np.linalg.norm(steps - self._velocity(), axis=1)
        best = int(np.argmin(away))
        others = large[np.linalg.norm(steps - steps[best], axis=1) > _APART_PX]
        return np.where(np.isin(parts, others), np.float32(0), soft) if len(others) else soft

    def _velocity(self) -> npt.NDArray[np.float64]:
        """Its mean step (x, y) over the last frames."""
        recent = self._places[-_VELOCITY_FRAMES:]
        return np.asarray((recent[-1] - recent[0]) / max(1, len(recent) - 1), np.float64)

    def has_gone_far(self, width_px: float) -> bool:
        """Whether it has left its old place, given its width: turning there is not enough."""
        return bool(self._travel_px().max() >= _FAR_SHARE * width_px)

    def stands_at(self, inside: Mask, runs: U8) -> Mask:
        """The pixels of its mask that have stood still with it."""
        stands = self._travel_px() < _STANDS_PX
        stands[:_SETTLED_RUN] = False
        return np.asarray(inside & stands[runs], np.bool_)

    @property
    def _moves(self) -> bool:
        return len(self._places) > 1 and math.dist(*self._places[-2:]) >= STILL_PX

    def _travel_px(self) -> npt.NDArray[np.float64]:
        """How far it is from where it was, by the number of frames since, f64 [256]; from what is
        not remembered it is as far as from the last that is.
        """
        since = np.hypot(*(self._places[-1] - self._places).T)[::-1]
        return np.asarray(since[np.minimum(np.arange(256), len(since) - 1)], np.float64)

    def _step(self, inside: Mask, flow: F32) -> None:
        vectors = flow[inside]
        moving = vectors[np.hypot(vectors[:, 0], vectors[:, 1]) >= STILL_PX]
        step = np.zeros(2)
        if len(moving) and len(moving) >= _MOVING_SHARE * len(vectors):
            step = -np.median(moving, axis=0).astype(np.float64)
        place = self._places[-1] + step
        if not math.isfinite(float(place.sum())):
            return
        self._places = np.concatenate([self._places[-_MEMORY:], place[None]])
