"""Keeps the identities of one stream's regions: who is new, followed, lost, found again or gone.

Two kinds of region live side by side. *Given* regions come with every frame from a sender that has
its own masks; their ids are the sender's and the masks pass through. *Carried* regions are given
once (a prompt, or a describe-and-follow) and carried on by `carry.Carrier`.

Reasons for `lost`: `drift` (flow contradicts itself), `occluded` (most of it vanished inside the
picture), `left_view` (it vanished at the border), `area_jump` (it grew or shrank as no motion
does), `appearance` (its colours are no longer the region's), `absent` (the sender stopped listing
it), `bad_region` (what the sender says of it is no region of the frame). Reasons for the end:
`lost_ttl`, `restart` (the source began anew or changed its picture size), `removed` (on request),
`source_end`. Ids are never used twice.

Pure: frames and `now_ns` in, `TrackSet` out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from ureca.datatypes import Frame, Mask, Refusal, RegionSeed, Track, TrackSet, TrackState
from ureca.errors import RegionError, RequestError
from ureca.node.appearance import F32, colour_bins
from ureca.node.carry import Carrier, Picture
from ureca.node.config import ID_PATTERN, TrackerConfig
from ureca.node.flow import FlowEstimator, FlowField, shrink, work_size
from ureca.node.regions import box_of, iou, seed_mask
from ureca.node.search import View, find, view_of

_PART_SHARE = 0.8
_MAX_BACKOFF = 6
_SAME_REGION_IOU = 0.5
"""A given mask without an id continues the given region that it overlaps at least this much."""


@dataclass(slots=True)
class _Region:
    """What the tracker remembers about one region."""

    track: Track
    is_given: bool = False
    sender_rid: str | None = None
    carrier: Carrier | None = None
    view: View | None = None
    lost_ns: int = 0
    finds: int = 0
    """Each recovery doubles the wait before the next search: what flaps is not worth believing."""

    @property
    def is_lost(self) -> bool:
        return self.track.state is TrackState.LOST


@dataclass(frozen=True, slots=True)
class Update:
    """The outcome of one frame: all tracks, and why seeds were refused."""

    tracks: TrackSet
    refused: tuple[Refusal, ...] = ()


class Tracker:
    """Follows the regions of one stream."""

    def __init__(self, config: TrackerConfig, *, max_regions: int) -> None:
        self._config = config
        self._max_regions = max_regions
        self._flow = FlowEstimator(config.flow_preset)
        self._regions: dict[str, _Region] = {}
        self._used: set[str] = set()
        self._count = 0
        self._picture: Picture | None = None
        self._epoch: tuple[bytes, int, int] | None = None
        self._frames = 0

    def update(self, frame: Frame, prompts: Sequence[RegionSeed], *, now_ns: int) -> Update:
        """Follow all regions onto `frame` and start those of `prompts`.

        Bad seeds are refused one by one, with the reason in `Update.refused`; they never stop the
        others.
        """
        self._frames += 1
        ended = self._begin(frame)
        self._forget_news()
        self._carry(frame, now_ns)
        refused: list[Refusal] = []
        if frame.regions is not None:
            self._take_given(frame, frame.regions, refused, now_ns)
        for prompt in prompts:
            self._try(partial(self._start_carried, frame, prompt), prompt, refused)
        self._mark_parts()
        ended += self._expire(now_ns)
        tracks = (*ended, *(r.track for r in self._regions.values()))
        return Update(TrackSet(frame.stream, frame.seq, frame.captured_ns, tracks), tuple(refused))

    def add(self, frame: Frame, seed: RegionSeed) -> Track:
        """Start a region on `frame`, the newest that `update` saw; raises `RegionError`."""
        return self._start_carried(frame, seed)

    def move(self, rid: str, frame: Frame, seed: RegionSeed) -> Track:
        """Put a carried region where `seed` says it is on `frame`; raises `RegionError`, and
        `RequestError` when there is none.
        """
        region = self._carried(rid)
        assert self._picture is not None
        mask = seed_mask(seed, frame.image)
        self._carry_from(region, self._picture, mask)
        state = TrackState.RECOVERED if region.is_lost else TrackState.ALIVE
        region.track = replace(
            _seen(region.track, mask, state), label=seed.label or region.track.label
        )
        return region.track

    def remove(self, rid: str) -> Track:
        """End a carried region; raises `RequestError` when there is none."""
        region = self._carried(rid)
        del self._regions[rid]
        return _ended(region.track, "removed")

    def _carried(self, rid: str) -> _Region:
        region = self._regions.get(rid)
        if region is None:
            raise RequestError(f"no region {rid!r}", code="NOT_FOUND")
        if region.is_given:
            raise RequestError(f"region {rid!r} is the sender's to change", code="FORBIDDEN")
        return region

    def close(self, reason: str) -> tuple[Track, ...]:
        """End all regions."""
        ended = tuple(_ended(region.track, reason) for region in self._regions.values())
        self._regions.clear()
        return ended

    # --- frames ----------------------------------------------------------------------------------

    def _begin(self, frame: Frame) -> tuple[Track, ...]:
        epoch = (frame.boot, frame.height, frame.width)
        restarted = self._epoch is not None and self._epoch != epoch
        self._epoch = epoch
        if not restarted:
            return ()
        self._picture = None
        return self.close("restart")

    def _forget_news(self) -> None:
        for region in self._regions.values():
            if region.track.state in (TrackState.NEW, TrackState.RECOVERED):
                region.track = replace(region.track, state=TrackState.ALIVE)

    def _carry(self, frame: Frame, now_ns: int) -> None:
        before, picture = self._picture, self._look_at(frame)
        self._picture = picture
        if frame.regions is None and before is not None:
            self._adopt(before)
        carried = [region for region in self._regions.values() if region.carrier is not None]
        moving = [region for region in carried if not region.is_lost]
        if moving and before is not None:
            flow = self._flow.between(before.gray, picture.gray)
            for region in moving:
                self._move(region, frame, flow, now_ns)
        for region in carried:
            if region.is_lost and self._frames % (self._config.recover_every << region.finds) == 0:
                self._search(region, frame)

    def _look_at(self, frame: Frame) -> Picture:
        size = work_size(frame.height, frame.width, work_width_px=self._config.work_width_px)
        rgb = shrink(frame.image, size)
        gray = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        return Picture(rgb=rgb, gray=gray, bins=colour_bins(rgb))

    # --- carried regions -------------------------------------------------------------------------

    def _adopt(self, before: Picture) -> None:
        """Carry on the given regions of a sender that stopped sending masks."""
        for region in self._regions.values():
            if region.carrier is None and region.track.mask is not None:
                self._carry_from(region, before, region.track.mask)

    def _carry_from(self, region: _Region, picture: Picture, mask: Mask) -> None:
        height, width = picture.size
        soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        small = np.asarray(soft, np.float32)
        if not (small > 0.5).any():
            small = np.asarray(small > 0, np.float32)
        region.carrier = Carrier(self._config, picture, small)
        region.view = view_of(picture, small)

    def _move(self, region: _Region, frame: Frame, flow: FlowField, now_ns: int) -> None:
        assert region.carrier is not None
        assert self._picture is not None
        reason = region.carrier.move(self._picture, flow)
        mask = _full_size(region.carrier.soft, frame)
        if reason is None and not mask.any():
            reason = "occluded"
        if reason is not None:
            _lose(region, reason, now_ns)
            return
        if region.carrier.is_sound:
            region.view = view_of(self._picture, region.carrier.soft) or region.view
        region.track = _seen(region.track, mask, TrackState.ALIVE)

    def _search(self, region: _Region, frame: Frame) -> None:
        region.track = replace(region.track, missed_frames=region.track.missed_frames + 1)
        if region.view is None or region.carrier is None or self._picture is None:
            return
        found = find(self._picture, region.view)
        if found is None or found.score < self._config.recover_score:
            return
        where = found.soft > 0.5
        if region.carrier.looks_like(self._picture, where) < self._config.recover_appearance:
            return
        mask = _full_size(found.soft, frame)
        if mask.any() and not self._taken(mask, region):
            region.carrier.place(found.soft)
            region.finds = min(region.finds + 1, _MAX_BACKOFF)
            region.track = _seen(region.track, mask, TrackState.RECOVERED)

    def _taken(self, mask: Mask, seeker: _Region) -> bool:
        """True when a region other than the seeker's parent or part is already there: twins are not
        swapped.
        """
        return any(
            other is not seeker
            and other.track.mask is not None
            and iou(other.track.mask, mask) > 0.5
            for other in self._regions.values()
        )

    def _mark_parts(self) -> None:
        """Tell new regions that lie inside others: a part is carried with less trust in colour."""
        for region in self._regions.values():
            if region.track.state is TrackState.NEW and region.carrier is not None:
                region.carrier.is_part = any(
                    other is not region and _lies_inside(region.track.mask, other.track.mask)
                    for other in self._regions.values()
                )

    def _start_carried(self, frame: Frame, seed: RegionSeed) -> Track:
        assert self._picture is not None
        self._check_room()  # before a mask is made: that is what a flood of prompts would cost
        mask = seed_mask(seed, frame.image)
        region = self._start(frame, seed, mask)
        self._carry_from(region, self._picture, mask)
        return region.track

    # --- given regions ---------------------------------------------------------------------------

    def _take_given(
        self, frame: Frame, seeds: Sequence[RegionSeed], refused: list[Refusal], now_ns: int
    ) -> None:
        seen: set[str] = set()
        for seed in seeds:
            self._try(partial(self._give, frame, seed, seen), seed, refused)
        bad = {refusal.rid for refusal in (*frame.refused, *refused)}
        for rid, region in self._regions.items():
            if region.is_given and rid not in seen:
                if region.is_lost:
                    missed = region.track.missed_frames + 1
                    region.track = replace(region.track, missed_frames=missed)
                else:
                    is_bad = region.sender_rid is not None and region.sender_rid in bad
                    _lose(region, "bad_region" if is_bad else "absent", now_ns)

    def _give(self, frame: Frame, seed: RegionSeed, seen: set[str]) -> None:
        mask = seed_mask(seed, frame.image)
        region = self._continued(seed, mask, seen)
        if region is None:
            region = self._start(frame, seed, mask)
            region.is_given = True
        elif region.track.rid in seen:
            raise RegionError(f"the frame lists region {seed.rid!r} twice")
        else:
            state = TrackState.RECOVERED if region.is_lost else TrackState.ALIVE
            region.track = _seen(region.track, mask, state)
            region.carrier = region.view = None
        seen.add(region.track.rid)

    def _continued(self, seed: RegionSeed, mask: Mask, seen: set[str]) -> _Region | None:
        given = [r for r in self._regions.values() if r.is_given]
        if seed.rid is not None:
            return next((r for r in given if r.sender_rid == seed.rid), None)
        nameless = [r for r in given if r.sender_rid is None and r.track.rid not in seen]
        overlaps = [(iou(r.track.mask, mask), r) for r in nameless if r.track.mask is not None]
        best = max(overlaps, key=lambda pair: pair[0], default=None)
        return best[1] if best and best[0] >= _SAME_REGION_IOU else None

    # --- identities ------------------------------------------------------------------------------

    def _check_room(self) -> None:
        if len(self._regions) >= self._max_regions:
            raise RegionError(f"the limit of {self._max_regions} regions per stream is reached")

    def _start(self, frame: Frame, seed: RegionSeed, mask: Mask) -> _Region:
        self._check_room()
        track = Track(
            rid=self._new_rid(seed.rid),
            state=TrackState.NEW,
            mask=mask,
            box_xyxy_px=box_of(mask),
            age_frames=0,
            missed_frames=0,
            first_seq=frame.seq,
            label=seed.label,
            parent=seed.parent,
        )
        region = _Region(track, sender_rid=seed.rid)
        self._regions[track.rid] = region
        return region

    def _new_rid(self, wanted: str | None) -> str:
        """`wanted` when it was never used, else `wanted-2` and so on; `r1`, `r2` ... for the
        nameless.
        """
        if wanted is not None and ID_PATTERN.fullmatch(wanted) is None:
            raise RegionError(f"a region id must match [a-z0-9_-]{{1,64}}, got {wanted!r}")
        self._count += wanted is None
        rid = stem = wanted or f"r{self._count}"
        suffix = 2
        while rid in self._used:
            rid = f"{stem[:56]}-{suffix}"
            suffix += 1
        self._used.add(rid)
        return rid

    def _expire(self, now_ns: int) -> tuple[Track, ...]:
        ttl_ns = int(self._config.lost_ttl_s * 1e9)
        late = [
            rid for rid, r in self._regions.items() if r.is_lost and now_ns - r.lost_ns >= ttl_ns
        ]
        return tuple(_ended(self._regions.pop(rid).track, "lost_ttl") for rid in late)

    @staticmethod
    def _try(start: Callable[[], object], seed: RegionSeed, refused: list[Refusal]) -> None:
        try:
            start()
        except RegionError as error:
            rid = seed.rid if seed.rid and ID_PATTERN.fullmatch(seed.rid) else None
            refused.append(Refusal(rid, str(error)))


def _lies_inside(part: Mask | None, whole: Mask | None) -> bool:
    if part is None or whole is None:
        return False
    area = np.count_nonzero(part)
    covered = np.count_nonzero(part & whole)
    return bool(covered >= _PART_SHARE * area and np.count_nonzero(whole) > area)


def _full_size(soft: F32, frame: Frame) -> Mask:
    size = (frame.width, frame.height)
    return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR) > 0.5, np.bool_)


def _seen(track: Track, mask: Mask, state: TrackState) -> Track:
    return replace(
        track,
        state=state,
        mask=mask,
        box_xyxy_px=box_of(mask),
        age_frames=track.age_frames + 1,
        missed_frames=0,
        reason="",
    )


def _lose(region: _Region, reason: str, now_ns: int) -> None:
    region.lost_ns = now_ns
    region.track = replace(
        region.track, state=TrackState.LOST, mask=None, reason=reason, missed_frames=1
    )


def _ended(track: Track, reason: str) -> Track:
    return replace(track, state=TrackState.ENDED, mask=None, reason=reason)
