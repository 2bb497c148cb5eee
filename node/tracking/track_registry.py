"""Holds one stream's regions and their states: new, seen, lost, ended. Ids are never used twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ureca.datatypes import Mask, RegionSeed, Track, TrackState
from ureca.errors import RegionError
from ureca.node.config_checks import ID_PATTERN
from ureca.node.masks.geometry import box_of, clip_box, shrunk
from ureca.node.tracking.association import DetectionFeatures
from ureca.node.tracking.mask_propagation import MaskPropagator
from ureca.node.tracking.redetection import RegionTemplate

_MAX_STEM = 56
MAX_NAMES = 65_536
"""So many names that senders chose are remembered, per stream."""
_NUMBERED = re.compile(r"r([1-9][0-9]*)")


class RegionNames:
    """Gives unique ids in bounded memory: names of senders are stored, numbers only counted.
    After `MAX_NAMES` names every further region gets a number.
    """

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        """How often each name was asked for."""
        self._count = 0

    def new(self, wanted: str | None) -> str:
        """`wanted` when it was never used, else `wanted-2` and so on; `r1`, `r2` ... for the
        nameless. Raises `RegionError` for a name that is no id.
        """
        if wanted is not None and ID_PATTERN.fullmatch(wanted) is None:
            raise RegionError(f"a region id must match [a-z0-9_-]{{1,64}}, got {wanted!r}")
        if wanted is None or len(self._asked) >= MAX_NAMES:
            return self._number()
        return self._name(wanted)

    def _number(self) -> str:
        self._count += 1
        while (rid := f"r{self._count}") in self._asked:
            self._count += 1
        return rid

    def _name(self, wanted: str) -> str:
        rid = wanted
        while self._is_used(rid):
            self._asked[wanted] = self._asked.get(wanted, 1) + 1
            rid = f"{wanted[:_MAX_STEM]}-{self._asked[wanted]}"
        self._asked.setdefault(rid, 1)
        return rid

    def _is_used(self, rid: str) -> bool:
        number = _NUMBERED.fullmatch(rid)
        return rid in self._asked or (number is not None and int(number[1]) <= self._count)


@dataclass(frozen=True, slots=True)
class FrameSize:
    """Height and width of a frame, and of its work picture, in pixels."""

    frame: tuple[int, int]
    work: tuple[int, int]


@dataclass(slots=True)
class TrackedRegion:
    """What the tracker remembers about one region."""

    track: Track
    is_given: bool = False
    sender_rid: str | None = None
    features: DetectionFeatures | None = None
    """The last features of a detection without an id, for matching."""
    propagator: MaskPropagator | None = None
    template: RegionTemplate | None = None
    seed: RegionSeed | None = None
    """The point or box of a client, moved along by flow until a segmenter was asked about it."""
    is_found: bool = False
    """A segmenter found it by itself: nobody asked for it."""
    drawn_seq: int = -1
    """The frame that its seed, or else its mask, was drawn on."""
    absences: int = 0
    """Keyframes in a row on which a segmenter saw nothing where it was carried."""
    lost_ns: int = 0
    finds: int = 0
    """Each recovery doubles the wait before the next search: what flaps is not worth believing."""

    @property
    def is_lost(self) -> bool:
        """Whether its place is unknown."""
        return self.track.state is TrackState.LOST

    def see(self, mask: Mask) -> None:
        """It is at `mask` bool [H, W], with at least one pixel; what was lost is recovered."""
        self.track = replace(
            self.track,
            state=TrackState.RECOVERED if self.is_lost else TrackState.ALIVE,
            mask=mask,
            box_xyxy_px=box_of(mask),
            age_frames=self.track.age_frames + 1,
            missed_frames=0,
            reason="",
        )

    def correct(self, mask: Mask) -> None:
        """Set `mask` on the same frame, in place of the last one."""
        self.track = replace(self.track, mask=mask, box_xyxy_px=box_of(mask))

    def resize(self, before: FrameSize, now: FrameSize) -> None:
        """Go on in frames of another size that show the same."""
        down, across = now.frame[0] / before.frame[0], now.frame[1] / before.frame[1]
        if self.track.mask is not None:
            self.correct(np.asarray(shrunk(self.track.mask, now.frame) > 0.5, np.bool_))
        else:
            x0, y0, x1, y1 = self.track.box_xyxy_px
            box = clip_box((x0 * across, y0 * down, x1 * across, y1 * down), *now.frame)
            self.track = replace(self.track, box_xyxy_px=box)
        self.seed = self.seed and _resize_seed(self.seed, down, across)
        if before.work == now.work:
            return
        self.features = self.features and self.features.resized(now.work)
        if self.template is not None:
            ratios = now.work[0] / before.work[0], now.work[1] / before.work[1]
            self.template = self.template.resized(*ratios)
        if self.propagator is not None:
            self.propagator.resize(now.work)

    def miss(self) -> None:
        """One more frame without it."""
        self.track = replace(self.track, missed_frames=self.track.missed_frames + 1)

    def lose(self, reason: str, now_ns: int) -> None:
        """It is no longer known where it is."""
        self.lost_ns, self.seed = now_ns, None
        self.track = replace(
            self.track, state=TrackState.LOST, mask=None, reason=reason, missed_frames=1
        )

    def ended(self, reason: str) -> Track:
        """Its final track."""
        return replace(self.track, state=TrackState.ENDED, mask=None, reason=reason)


class TrackRegistry:
    """The regions of one stream by id, at most `max_regions`."""

    def __init__(self, max_regions: int) -> None:
        self._max = max_regions
        self._by_rid: dict[str, TrackedRegion] = {}
        self._names = RegionNames()

    def __iter__(self) -> Iterator[TrackedRegion]:
        return iter(self._by_rid.values())

    def get(self, rid: str) -> TrackedRegion | None:
        """The region of that id, if it lives."""
        return self._by_rid.get(rid)

    @property
    def free_slots(self) -> int:
        """How many more may be started."""
        return self._max - len(self._by_rid)

    @property
    def found(self) -> int:
        """How many of them a segmenter found by itself."""
        return sum(region.is_found for region in self)

    def check_room(self) -> None:
        """Raises `RegionError` when no more may be started."""
        if self.free_slots < 1:
            raise RegionError(
                f"the limit of {self._max} regions per stream is reached; raise limits.max_regions"
            )

    def start(self, seed: RegionSeed, mask: Mask) -> TrackedRegion:
        """Start a region at `mask`; raises `RegionError` if the limit is reached or the id is
        invalid.
        """
        self.check_room()
        track = Track(
            rid=self._names.new(seed.rid),
            state=TrackState.NEW,
            mask=mask,
            box_xyxy_px=box_of(mask),
            age_frames=0,
            missed_frames=0,
            label=seed.label,
            parent=seed.parent,
        )
        region = TrackedRegion(track, sender_rid=seed.rid)
        self._by_rid[track.rid] = region
        return region

    def end(self, rid: str, reason: str) -> Track:
        """Remove a region and return its final track."""
        return self._by_rid.pop(rid).ended(reason)

    def end_all(self, reason: str) -> tuple[Track, ...]:
        """Forget all."""
        return tuple(self.end(rid, reason) for rid in list(self._by_rid))

    def expire(self, *, ttl_ns: int, now_ns: int) -> tuple[Track, ...]:
        """End those that have been lost for too long."""
        late = [r.track.rid for r in self if r.is_lost and now_ns - r.lost_ns >= ttl_ns]
        return tuple(self.end(rid, "lost_ttl") for rid in late)

    def forget_news(self) -> None:
        """What was new or recovered on the last frame is simply alive on the next."""
        for region in self:
            if region.track.state in (TrackState.NEW, TrackState.RECOVERED):
                region.track = replace(region.track, state=TrackState.ALIVE)


def _resize_seed(seed: RegionSeed, down: float, across: float) -> RegionSeed:
    """A point or box with its further clicks, in frames `down` as high and `across` as wide."""

    def move(point: tuple[float, float]) -> tuple[float, float]:
        return point[0] * across, point[1] * down

    box = seed.box_xyxy_px
    return replace(
        seed,
        point_xy_px=None if seed.point_xy_px is None else move(seed.point_xy_px),
        box_xyxy_px=None if box is None else (*move(box[:2]), *move(box[2:])),
        more_points_xy_px=tuple(map(move, seed.more_points_xy_px)),
        not_points_xy_px=tuple(map(move, seed.not_points_xy_px)),
    )
