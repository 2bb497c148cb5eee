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
from ureca.node.masks.color_histogram import F32, I32, U8, evidence, histogram, similarity, surround
from ureca.node.masks.optical_flow import FlowField, Window, rigid, sample

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


class MaskPropagator:
    """The memory of one followed region: its soft mask, its colours and its usual size."""

    def __init__(self, config: TrackerConfig, picture: WorkImage, soft: F32) -> None:
        self._config = config
        self._around = histogram(picture.bins, surround(soft > 0.5, radius_px=_RING_PX))
        self._first_look = histogram(picture.bins, soft > 0.5)
        self._look = self._first_look
        self._likeness = similarity(self._first_look, self._around)
        self._doubts = 0
        self.is_part = False
        """True when it lay inside another region at its start, such as a handle on its mug.

        In the colour of the whole it would leak into it if colours corrected its outline: then it
        moves as a rigid shape instead.
        """
        self._shape = soft
        self.soft = soft
        self.usual_area_px = max(1.0, float(_count(soft > 0.5)))

    def move(self, picture: WorkImage, flow: FlowField) -> LostReason | None:
        """Carry the mask onto `picture`. A reason means that the region is lost as of this
        picture.
        """
        before_px = _count(self.soft > 0.5)
        leaks = self.is_part and self._likeness > _LEAKY
        step = self._moved_rigidly if leaks else self._corrected
        self.soft = step(flow, picture.bins)
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
        self._doubts = 0

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

    def looks_like(self, picture: WorkImage, where: Mask) -> float:
        """Colour similarity 0..1 between the pixels `where` and the stored colours."""
        return similarity(histogram(picture.bins, where), self._mixed_look())

    def _mixed_look(self) -> F32:
        return _REFERENCE_SHARE * self._first_look + (1 - _REFERENCE_SHARE) * self._look

    def _corrected(self, flow: FlowField, bins: I32) -> F32:
        window = self._near()
        if window is None:
            return np.zeros_like(self.soft)
        return self._coloured(sample(self.soft, flow.backward, window), bins, window)

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
        soft[window] = _connected(1 / (1 + np.exp(-2 * logit.clip(-10, 10))), predicted)
        return soft

    def _moved_rigidly(self, flow: FlowField, bins: I32) -> F32:
        """The whole shape turned, scaled and shifted, less the pixels that something else
        covers.
        """
        self._shape = rigid(self._shape, flow.backward)
        colour = evidence(bins, self._mixed_look(), self._around)
        return np.asarray(np.where(colour > _COVERED, self._shape, 0.0), np.float32)

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
