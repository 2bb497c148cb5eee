"""Propagates one region from frame to frame, and detects when the region is lost.

Optical flow moves the outline and colour corrects it: each pixel weighs the prediction of flow
against whether its colour belongs inside or around the region. All pictures and masks here are
work-sized (`flow.work_size`). Pure: no clock, no frame, no ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.node.config import TrackerConfig
from ureca.node.masks.color_histogram import (
    F32,
    I32,
    U8,
    colour_bins,
    evidence,
    histogram,
    similarity,
    surround,
)
from ureca.node.tracking.optical_flow import FlowField, Window, rigid, sample
from ureca.node.tracking.region_motion import RegionMotion
from ureca.node.tracking.still_background import StillBackground

LostReason = Literal["drift", "occluded", "left_view", "area_jump", "appearance"]

_MIN_PIXELS = 6
_RING_PX = 15
_MAX_STEP_PX = 24
"""How far a region may move within one frame, in work pixels: the width of the searched border."""
_SOUND_SHARE = 0.92
_SIGMA_PER_SIDE = 0.25
"""Small regions get a sharper prior: blurred by as much as they are wide, they would vanish."""
_LEAKY = 0.4
"""Colour similarity of a part to its surroundings above which colours cannot hold its outline."""
_COVERED = -1.5
"""Evidence below which a pixel of a rigid part belongs to something in front of it."""
_EMPTY, _OTHER = 10.0, 0.5
"""Evidence against a pixel that shows the background, and for one that clearly does not."""
_STANDS_SHARE, _STANDS_FRAMES, _CHANGED_FRAMES, _COVERED_SHARE = 0.7, 4, 8, 0.3
"""A region stands when so much of it does. While so much of where it stood looks as it did, what
looks otherwise there is something in front of it."""
_HALF, _ALIKE_SIZE, _TOUCH_PX = 0.5, 3.0, 5
_TORN_GROWTH = 1.2
"""Growth over the usual area from which on a mask in pieces may have taken in a neighbour."""
_ADAPT_AREA = 0.08
"""Share of the reference area that each frame replaces: slow enough to notice a leak, quick enough
for zoom."""
_TRUST = 0.5
"""Share of the reference area that a corrected mask replaces."""
_REFERENCE_SHARE = 0.5
"""Weight of the first colours against the running ones: trackers that forget the first ones drift.
"""


@dataclass(frozen=True, slots=True)
class WorkImage:
    """One work-sized picture: RGB u8 [h, w, 3], grey u8 [h, w] and colour bins i32 [h, w]."""

    rgb: U8
    gray: U8
    bins: I32

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.gray.shape[0]), int(self.gray.shape[1])

    def resized(self, size: tuple[int, int]) -> WorkImage:
        """The picture stretched to `size` (height, width)."""
        rgb = np.asarray(cv2.resize(self.rgb, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        gray = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        return WorkImage(rgb=rgb, gray=gray, bins=colour_bins(rgb))


class MaskPropagator:
    """The memory of one followed region: its soft mask, its colours and its usual size."""

    def __init__(self, config: TrackerConfig, picture: WorkImage, soft: F32) -> None:
        self._config = config
        self._around = histogram(picture.bins, surround(soft > 0.5, radius_px=_RING_PX))
        self._first_look = histogram(picture.bins, soft > 0.5)
        self._look = self._first_look
        self._likeness = similarity(self._first_look, self._around)
        self._doubts = 0
        self._motion = RegionMotion()
        self._background: StillBackground | None = None
        self.is_new = True
        """It began since the last picture."""
        self._stood: Mask | None = None
        self.is_part = False
        """True when it lay inside another region at its start, such as a handle on its mug.

        In the colour of the whole it would leak into it if colours corrected its outline: then it
        moves as a rigid shape instead.
        """
        self._shape = self._before = soft
        self.soft = soft
        self.usual_area_px = max(1.0, float(_count(soft > 0.5)))

    def move(
        self, picture: WorkImage, flow: FlowField, background: StillBackground | None = None
    ) -> None:
        """Carry the mask onto `picture`."""
        self._background = background if background is not None and background.is_known else None
        self._before = self.soft
        leaks = self.is_part and self._likeness > _LEAKY
        step = self._moved_rigidly if leaks else self._corrected
        self.soft = step(flow, picture.bins)

    def yield_to(self, other: MaskPropagator, contested: Mask, flow: FlowField) -> None:
        """Leave each pixel of `contested` to the one of the two of which flow says so, after both
        have moved: a pixel belongs to one of two regions that were apart.
        """
        mine = sample(self._before, flow.backward)
        theirs = sample(other._before, flow.backward)
        loses = contested & (mine <= theirs)
        self.soft = np.where(loses, np.float32(0), self.soft)
        other.soft = np.where(contested & ~loses, np.float32(0), other.soft)

    @property
    def is_half_hidden(self) -> bool:
        """Whether less than half of its usual area is left."""
        return _count(self.soft > 0.5) < _HALF * self.usual_area_px

    def is_behind(self, other: MaskPropagator) -> bool:
        """Whether what is left of it touches another region of its size that is seen: the rest may
        as well be the other's.
        """
        ratio = other.usual_area_px / self.usual_area_px
        if other is self or other.is_half_hidden or not 1 / _ALIKE_SIZE < ratio < _ALIKE_SIZE:
            return False
        mine, theirs = self.soft > 0.5, other.soft > 0.5
        near = cv2.dilate(mine.view(np.uint8), np.ones((_TOUCH_PX, _TOUCH_PX), np.uint8)) > 0
        overlap = _count(mine & theirs)
        return bool(overlap < _HALF * _count(mine) and (near & theirs).any())

    def hide(self) -> None:
        """Nothing of it is seen."""
        self.soft = np.zeros_like(self.soft)

    def judge(self, picture: WorkImage, flow: FlowField) -> LostReason | None:
        """Learn from the mask that `move` found on `picture`. A reason means that the region is
        lost as of this picture.
        """
        before_px = _count(self._before > 0.5)
        inside = self.soft > 0.5
        area_px = _count(inside)
        gone = self._gone(inside, area_px)
        if gone is not None:
            return gone
        doubt = self._doubt(picture, flow, inside, area_px / max(1, before_px))
        self._doubts = self._doubts + 1 if doubt else 0
        if doubt is None:
            self._learn(picture, inside, area_px)
        return doubt if self._doubts >= self._config.bad_frames else None

    @property
    def is_sound(self) -> bool:
        """True when the last frame raised no doubt and the whole region was visible."""
        return self._doubts == 0 and _count(self.soft > 0.5) >= _SOUND_SHARE * self.usual_area_px

    def place(self, soft: F32) -> None:
        """Continue the region where it was found; its colours and size are kept."""
        self.soft = self._shape = soft
        self._doubts, self._stood = 0, None

    def resize(self, size: tuple[int, int]) -> None:
        """Go on in pictures of `size` (height, width) that show the same."""
        before = self.soft.shape
        if before == size:
            return
        self.soft = self._shape = self._before = _stretch(self.soft, size)
        self.usual_area_px *= size[0] * size[1] / (before[0] * before[1])
        self._motion, self._background, self._stood = RegionMotion(), None, None

    def correct(self, then: WorkImage, there: F32, here: F32, now: WorkImage | None = None) -> None:
        """Take up the region at `here` on the newest picture, since it was `there` on an earlier
        one: its colours and size are learnt anew from that look. When `here` is rough, the colours
        of `now`, the newest picture, mend its outline.
        """
        self.place(here)
        inside = np.asarray(there > 0.5, np.bool_)
        around = histogram(then.bins, surround(inside, radius_px=_RING_PX))
        self._look = histogram(then.bins, inside)
        self._around = 0.5 * (self._around + around)
        self.usual_area_px += _TRUST * (_count(inside) - self.usual_area_px)
        window = self._near()
        if now is not None and not self.is_part and window is not None:
            self.soft = self._shape = self._coloured(here[window], now.bins, window)

    def _standing(self, background: StillBackground, window: Window) -> F32:
        """Evidence f32 for the pixels of the window that look as when it stood there, and against
        those in front of it, which just changed, and around it, which have stood still with it.
        """
        shows, runs = background.shows_own[window], background.runs[window]
        if self.seen_where_it_stood(background) < _COVERED_SHARE or self._stood is None:
            return np.zeros(shows.shape, np.float32)
        stood = self._stood[window]
        against = ~shows & np.where(stood, runs < _CHANGED_FRAMES, runs >= _STANDS_FRAMES)
        return np.asarray((stood & shows) - against.astype(np.float32), np.float32)

    @property
    def stood(self) -> F32 | None:
        """Its soft mask where it last stood before a fixed camera; None when it did not."""
        return None if self._stood is None else self._stood.astype(np.float32)

    def seen_where_it_stood(self, background: StillBackground) -> float:
        """The share of the pixels where it stood that look as they did then."""
        if self._stood is None or not background.is_known or not self._stood.any():
            return 0.0
        return float(background.shows_own[self._stood].mean())

    def looks_like(self, picture: WorkImage, where: Mask) -> float:
        """Colour similarity 0..1 between the pixels `where` and the stored colours."""
        return similarity(histogram(picture.bins, where), self._mixed_look())

    def _mixed_look(self) -> F32:
        return _REFERENCE_SHARE * self._first_look + (1 - _REFERENCE_SHARE) * self._look

    def _corrected(self, flow: FlowField, bins: I32) -> F32:
        window = self._near()
        if window is None:
            return np.zeros_like(self.soft)
        predicted = sample(self.soft, flow.backward, window)
        self._motion.advance(predicted > 0.5, flow.backward[window])
        if self._background is not None:
            self._leave(predicted > 0.5, window, self._background)
        soft = self._coloured(predicted, bins, window)
        if _count(soft > 0.5) > _TORN_GROWTH * self.usual_area_px:
            soft[window] = self._motion.own_piece(soft[window], flow.backward[window])
        return soft

    def _leave(self, inside: Mask, window: Window, background: StillBackground) -> None:
        """Tell the background which pixels of `inside`, the mask that flow predicts, it left."""
        motion, runs = self._motion, background.runs[window]
        left, stands = motion.left_behind(inside, runs), motion.stands_at(inside, runs)
        background.claim(stands, window)
        if (
            _count(stands) >= _STANDS_SHARE * max(1, _count(inside))
            and self.seen_where_it_stood(background) < _COVERED_SHARE
        ):
            self._stood = np.zeros(self.soft.shape, np.bool_)
            self._stood[window] = inside
        is_far = motion.has_gone_far(math.sqrt(self.usual_area_px))
        if is_far:
            self._stood = None
        background.reveal(left, window, even_own=is_far)

    def _near(self) -> Window | None:
        return _reach(self.soft, margin=int(3 * self._sigma) + _MAX_STEP_PX)

    @property
    def _sigma(self) -> float:
        """How uncertain an outline is that flow predicts, in pixels."""
        return min(self._config.edge_sigma_px, _SIGMA_PER_SIDE * math.sqrt(self.usual_area_px))

    def _coloured(self, predicted: F32, bins: I32, window: Window) -> F32:
        """`predicted`, the soft mask inside `window`, corrected by the colours there."""
        soft = np.zeros_like(self.soft)
        blurred = cv2.GaussianBlur(predicted, (0, 0), self._sigma)
        prior = blurred.clip(0.002, 0.998)
        colour = evidence(bins[window], self._mixed_look(), self._around)
        logit = np.log(prior / (1 - prior)) + self._config.colour_weight * colour
        if self._background is not None:
            cue = self._background.cue[window]
            logit += np.where(cue < 0, _EMPTY * cue, _OTHER * cue)
            logit += _EMPTY * self._standing(self._background, window)
        soft[window] = _connected(1 / (1 + np.exp(-2 * logit.clip(-10, 10))), predicted)
        return soft

    def _moved_rigidly(self, flow: FlowField, bins: I32) -> F32:
        """The whole shape turned, scaled and shifted, less the pixels that something else
        covers.
        """
        self._shape = rigid(self._shape, flow.backward)
        colour = evidence(bins, self._mixed_look(), self._around)
        is_covered = colour <= _COVERED
        if self._background is not None:
            is_covered |= self._background.cue < -0.5
        return np.asarray(np.where(is_covered, 0.0, self._shape), np.float32)

    def _gone(self, inside: Mask, area_px: int) -> LostReason | None:
        if area_px >= max(_MIN_PIXELS, self._config.min_area_share * self.usual_area_px):
            return None
        return "left_view" if self._at_border(inside) else "occluded"

    def _at_border(self, inside: Mask) -> bool:
        """True when what is left of the region touches the border; an empty rest is judged by its
        last trace.
        """
        rest = inside if inside.any() else self.soft > 0.05
        edge = self._config.border_px
        return bool(
            rest[:edge].any() or rest[-edge:].any() or rest[:, :edge].any() or rest[:, -edge:].any()
        )

    def _doubt(
        self, picture: WorkImage, flow: FlowField, inside: Mask, growth: float
    ) -> LostReason | None:
        config = self._config
        area_px = _count(inside)
        if growth > config.max_area_jump or growth < 1 / config.max_area_jump:
            return "area_jump"
        if area_px > config.max_area_growth * self.usual_area_px:
            return "area_jump"
        if float(np.median(flow.error_px[inside])) > config.max_flow_error_px:
            return "drift"
        if self.looks_like(picture, inside) < config.min_appearance:
            return "appearance"
        return None

    def _learn(self, picture: WorkImage, inside: Mask, area_px: int) -> None:
        rate = self._config.adapt_rate
        window = _reach(self.soft, margin=_RING_PX) or (slice(None), slice(None))
        bins, near = picture.bins[window], inside[window]
        self._look = (1 - rate) * self._look + rate * histogram(bins, near)
        around = histogram(bins, surround(near, radius_px=_RING_PX))
        self._around = (1 - 2 * rate) * self._around + 2 * rate * around
        if area_px > 0.5 * self.usual_area_px:
            self.usual_area_px += _ADAPT_AREA * (area_px - self.usual_area_px)


def _stretch(soft: F32, size: tuple[int, int]) -> F32:
    return np.asarray(cv2.resize(soft, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _reach(soft: F32, *, margin: int) -> tuple[slice, slice] | None:
    """The box of all pixels with any weight, grown by `margin`; None when there are none."""
    weight = soft > 0.02
    ys, xs = np.flatnonzero(weight.any(axis=1)), np.flatnonzero(weight.any(axis=0))
    if not len(ys):
        return None
    return (
        slice(max(0, int(ys[0]) - margin), int(ys[-1]) + margin + 1),
        slice(max(0, int(xs[0]) - margin), int(xs[-1]) + margin + 1),
    )


def _connected(soft: F32, predicted: F32) -> F32:
    """`soft` without the islands that flow did not predict: colour alone must not start a second
    region.
    """
    count, parts = cv2.connectedComponents((soft > 0.5).astype(np.uint8))
    if count <= 2:
        return soft
    backed = np.bincount(parts.ravel(), weights=predicted.ravel(), minlength=count)
    sizes = np.bincount(parts.ravel(), minlength=count)
    keep: npt.NDArray[np.bool_] = backed >= 0.4 * sizes
    keep[0] = True
    return np.asarray(np.where(keep[parts], soft, 0.0), np.float32)
