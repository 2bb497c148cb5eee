"""The background before a camera that stands still: what each pixel shows when nothing is there.

Flow and colour cannot tell that a mask stays behind on background of like colour: nothing moves
there, and the colours fit. The background itself can: a pixel that looks as it did before the
object came shows no object. While the camera moves nothing is known, and nothing is said. Work
pixels throughout.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.node.masks.color_histogram import F32, U8
from ureca.node.tracking.optical_flow import FlowField, Window

STILL_PX = 0.5
"""Flow below which a pixel stands still."""
_STILL_SHARE, _SAME_SHARE = 0.6, 0.5
"""Shares of the pixels outside all regions that must stand still, else the camera moves, and that
must look as before after it moved, else it shows another scene."""
_SETTLED_FRAMES = 4
"""Frames for which a pixel looks alike before it is taken for background."""
_MARGIN_PX, _FREE_FRAMES = 4, 12
"""So close to a region its outline may be wrong, and what it lost so lately may be its own: nothing
is learnt there."""
_TOLERANCE, _NOISE_FACTOR = 5.0, 3.0
"""Grey levels, and multiples of the usual difference between frames, by which looks may differ."""
_CLEAR = 2.0
"""A pixel is clearly not background from so many tolerances on."""
_BLEND = 0.2
_MAX_RUN = 255
_STRIDE = 4
"""Medians are taken of every so many pixels, across and down."""


class StillBackground:
    """Learns the background of one stream. `is_known` says whether it says anything."""

    def __init__(self) -> None:
        self.is_known = False
        self.runs: npt.NDArray[np.uint8] = np.zeros((0, 0), np.uint8)
        """u8 [h, w]: for how many frames each pixel has looked the same and stood still."""
        self.cue: F32 = np.zeros((0, 0), np.float32)
        """f32 [h, w]: -1 where the newest picture shows the background, 1 where it clearly does
        not, or what a region showed that stood there, 0 where nothing is known."""
        self._usual: F32 | None = None
        self._background = np.zeros((0, 0, 3), np.float32)
        self._is_background = np.zeros((0, 0), np.bool_)
        self._own = np.zeros((0, 0, 3), np.float32)
        self._is_own = np.zeros((0, 0), np.bool_)
        self._still = np.zeros((0, 0), np.bool_)
        self.shows_own = np.zeros((0, 0), np.bool_)
        """bool [h, w]: where the newest picture shows what a region showed that stood there."""
        self._free = np.zeros((0, 0), np.uint8)
        self._seen: F32 = np.zeros((0, 0, 3), np.float32)
        self._tolerance = _TOLERANCE

    def forget(self) -> None:
        """The pictures that come are of another size or scene."""
        self._usual, self.is_known = None, False

    def see(self, rgb: U8, flow: FlowField | None, regions: Mask) -> None:
        """Take in the newest picture u8 [h, w, 3], the flow to it, if it is known, and where
        regions were on the picture before, bool [h, w].
        """
        self._seen = np.asarray(cv2.blur(rgb, (3, 3)), np.float32)
        near = _grown(regions, _MARGIN_PX)
        if self._usual is None or self._usual.shape != self._seen.shape:
            self._begin()
            return
        if flow is None:
            self._still = _difference(self._seen, self._usual) < self._tolerance
        else:
            self._still = np.hypot(flow.backward[..., 0], flow.backward[..., 1]) < STILL_PX
        outside = ~near[::_STRIDE, ::_STRIDE]
        if not outside.any() or self._still[::_STRIDE, ::_STRIDE][outside].mean() < _STILL_SHARE:
            self.is_known = False  # until it stands again, if the scene is still the same
            return
        if not self.is_known and not self._is_same(outside):
            self._begin()
        self.is_known = True
        self._adjust(outside)
        self._settle(near)
        self._compare()

    def _begin(self) -> None:
        self._usual, self.is_known = self._seen, False
        size = self._seen.shape[:2]
        self._background = np.zeros_like(self._seen)
        self._is_background = np.zeros(size, np.bool_)
        self._own, self._is_own = np.zeros_like(self._seen), np.zeros(size, np.bool_)
        self.shows_own = np.zeros(size, np.bool_)
        self._free = np.full(size, _FREE_FRAMES, np.uint8)
        self.runs, self.cue = np.zeros(size, np.uint8), np.zeros(size, np.float32)

    def _is_same(self, outside: Mask) -> bool:
        """Whether most of the picture looks as it usually did."""
        assert self._usual is not None
        difference = _difference(self._seen, self._usual)[::_STRIDE, ::_STRIDE]
        return bool((difference[outside] < self._tolerance).mean() > _SAME_SHARE)

    def _adjust(self, outside: Mask) -> None:
        """Follow an exposure that changes, and measure how much pixels differ anyway."""
        assert self._usual is not None
        change = (self._seen - self._usual)[::_STRIDE, ::_STRIDE][outside]
        offset = np.median(change, axis=0).astype(np.float32)
        if float(np.abs(offset).max()) > 1.0:
            self._usual = self._usual + offset
            self._background += offset
            self._own += offset
        noise = float(np.median(np.abs(change - offset).max(axis=1)))
        self._tolerance = _TOLERANCE + _NOISE_FACTOR * noise

    def _settle(self, near: Mask) -> None:
        """Count for how long each pixel has looked alike; what settles outside is background."""
        assert self._usual is not None
        alike = _difference(self._seen, self._usual) < self._tolerance
        self.runs = np.where(
            alike & self._still, np.minimum(self.runs, _MAX_RUN - 1) + 1, 0
        ).astype(np.uint8)
        blend = np.where(alike, np.float32(_BLEND), np.float32(1.0))[..., None]
        self._usual = self._usual + blend * (self._seen - self._usual)
        self._free = np.where(near, 0, np.minimum(self._free, _MAX_RUN - 1) + 1).astype(np.uint8)
        self.shows_own = self._is_own & (_difference(self._seen, self._own) < self._tolerance)
        self._own += np.float32(_BLEND) * self.shows_own[..., None] * (self._seen - self._own)
        settled = (self.runs >= _SETTLED_FRAMES) & (self._free >= _FREE_FRAMES) & ~self.shows_own
        self._background[settled] = self._usual[settled]
        self._is_background |= settled

    def _compare(self) -> None:
        difference = _difference(self._seen, self._background)
        shows = self._is_background & (difference < self._tolerance) & self._still
        differs = self._is_background & (difference > _CLEAR * self._tolerance)
        cue = np.where(self.shows_own, np.float32(1), differs.astype(np.float32) - shows)
        self.cue = np.asarray(cv2.blur(cue, (3, 3)), np.float32)

    def hold(self, where: Mask) -> None:
        """A region begins at `where`, bool [h, w]: what stood there so far was it."""
        if self._usual is None or where.shape != self.cue.shape:
            return
        self._is_background[where] = False
        self.cue[where] = 0.0
        self._free[where] = 0

    def claim(self, where: Mask, window: Window) -> None:
        """What the pixels `where` of the window show is a region that stands there."""
        assert self._usual is not None
        self._own[window][where] = self._usual[window][where]
        self._is_own[window][where] = True

    def reveal(self, where: Mask, window: Window, *, even_own: bool) -> None:
        """The pixels `where` of the window are background: a region that moved on left them. Those
        that show again what a standing region showed there are its own, unless `even_own`.
        """
        if not where.any():
            return
        assert self._usual is not None
        usual = self._usual[window]
        if not even_own:
            shown = _difference(usual, self._own[window]) < self._tolerance
            where = where & ~(self._is_own[window] & shown)
        self._background[window][where] = usual[where]
        self._is_background[window][where] = True
        self._is_own[window][where] = False
        self.cue[window][where] = -1.0


def _difference(one: F32, other: F32) -> F32:
    """The greatest difference of the channels, f32 [h, w]."""
    red, green, blue = cv2.split(np.asarray(cv2.absdiff(one, other)))
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.float32)


def _grown(mask: Mask, radius_px: int) -> Mask:
    kernel = np.ones((2 * radius_px + 1, 2 * radius_px + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.view(np.uint8), kernel) > 0, np.bool_)
