"""Tracks one stream's regions: new, tracked, lost, recovered or ended.

There are two kinds of region. *Given* regions come with every frame from a sender that has its own
masks (`detection_tracking`). *Carried* regions are given once (a prompt, or a describe-and-follow)
and propagated by `mask_propagation.MaskPropagator`; a segmenter may correct them on
keyframes (`mask_correction`).

Reasons for `lost`: `drift` (flow contradicts itself, or a segmenter sees nothing there), `occluded`
(most of it vanished inside the picture), `left_view` (it vanished at the border), `area_jump` (it
grew or shrank as no motion does), `appearance` (its colours are no longer the region's), `absent`
(the sender stopped listing it), `bad_region` (what the sender says of it is no region of the
frame). Reasons for the end: `lost_ttl`, `restart` (the source began anew), `removed` (on request),
`source_end`. Ids are never used twice. A camera that changes its picture size keeps its regions.

Pure: frames and `now_ns` in, `TrackSet` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from ureca.datatypes import Frame, Mask, Refusal, RegionSeed, Track, TrackSet, TrackState
from ureca.errors import RequestError
from ureca.node.config import TrackerConfig
from ureca.node.masks.color_histogram import F32, colour_bins
from ureca.node.masks.geometry import full_size, iou, shrunk
from ureca.node.masks.prompt_to_mask import seed_mask
from ureca.node.segmentation.keyframe_segmenter import KeyframeRequest
from ureca.node.tracking.detection_tracking import DetectionTracker, start_or_refuse
from ureca.node.tracking.mask_correction import MaskCorrections
from ureca.node.tracking.mask_propagation import MaskPropagator, WorkImage
from ureca.node.tracking.optical_flow import (
    FlowEstimator,
    FlowField,
    follow_point,
    shrink,
    work_size,
)
from ureca.node.tracking.redetection import LostSearch, RegionTemplate, take_template
from ureca.node.tracking.still_background import StillBackground
from ureca.node.tracking.track_registry import FrameSize, TrackedRegion, TrackRegistry

_PART_SHARE = 0.8
_MAX_BACKOFF = 6
_BACK_SHARE = 0.6
"""A lost region is back when so much of where it stood looks as it did."""
_PIECE_APPEARANCE = 0.92
"""Colour similarity of a lost region to a piece that may be it: nothing but colours is compared."""
_SHAPE_CHANGE = 1.4
"""Frames whose ratio of height to width changes by less are of the same camera in another mode."""
_ALIKE_SIZE = 3.0
"""Regions whose areas differ by less may be mistaken for each other, unlike a part and its whole.
"""


@dataclass(frozen=True, slots=True)
class Update:
    """The outcome of one frame: all tracks, and why seeds were refused; for each prompt why it was
    refused, None if it began.
    """

    tracks: TrackSet
    refused: tuple[Refusal, ...] = ()
    prompt_refusals: tuple[str | None, ...] = ()


class Tracker:
    """Follows the regions of one stream."""

    def __init__(
        self, config: TrackerConfig, *, max_regions: int, has_segmenter: bool = True
    ) -> None:
        """Without a segmenter, nobody asks again what a point or a box meant."""
        self._config = config
        self._has_segmenter = has_segmenter
        self._flow = FlowEstimator(config.flow_preset)
        self._regions = TrackRegistry(max_regions)
        self._given = DetectionTracker(config, self._regions)
        self.corrections = MaskCorrections(config, self._regions)
        """Takes a segmenter's answers, and counts what became of their masks."""
        self._background = StillBackground()
        self._picture: WorkImage | None = None
        self._session: bytes | None = None
        self._size: FrameSize | None = None
        self._frames = 0

    def update(self, frame: Frame, prompts: Sequence[RegionSeed], *, now_ns: int) -> Update:
        """Follow all regions onto `frame` and start those of `prompts`.

        Bad seeds are refused one by one, with the reason in `Update.refused`; they never stop the
        others.
        """
        self._frames += 1
        ended = self._begin(frame)
        self._regions.forget_news()
        picture = self._carry(frame, now_ns)
        refused: list[Refusal] = []
        if frame.regions is not None:
            refused += self._given.take(frame, frame.regions, picture.bins, now_ns=now_ns)
        of_prompts: list[str | None] = []
        for prompt in prompts:
            before = len(refused)
            start_or_refuse(partial(self._start_carried, frame, prompt), prompt, refused)
            of_prompts.append(refused[-1].reason if len(refused) > before else None)
        self._mark_parts()
        ended += self._regions.expire(ttl_ns=int(self._config.lost_ttl_s * 1e9), now_ns=now_ns)
        tracks = (*ended, *(region.track for region in self._regions))
        found = TrackSet(frame.stream, frame.seq, frame.captured_ns, tracks)
        return Update(found, tuple(refused), tuple(of_prompts))

    def add(self, frame: Frame, seed: RegionSeed) -> Track:
        """Start a region on `frame`, the newest that `update` saw; raises `RegionError`."""
        return self._start_carried(frame, seed)

    def move(self, rid: str, frame: Frame, seed: RegionSeed) -> Track:
        """Move a propagated region to `seed` on `frame`; raises `RegionError`, and `RequestError`
        if there is none.
        """
        region = self._carried(rid)
        assert self._picture is not None
        mask = seed_mask(seed, frame.image)
        self._carry_from(region, self._picture, mask)
        self._mark_drawn(region, seed, frame)
        region.is_found = False
        region.see(mask)
        region.track = replace(region.track, label=seed.label or region.track.label)
        return region.track

    def remove(self, rid: str) -> Track:
        """End a carried region; raises `RequestError` when there is none."""
        self._carried(rid)
        return self._regions.end(rid, "removed")

    def name(self, rid: str, label: str) -> Track | None:
        """Set what a region is called, whoever gave it; None when it has ended."""
        region = self._regions.get(rid)
        if region is None:
            return None
        region.track = replace(region.track, label=label)
        return region.track

    def begin(self, seq: int, seed: RegionSeed, frame: Frame) -> Track:
        """The region of a mask of keyframe `seq`, new or already followed, on the newest `frame`.
        Raises `RegionError`.
        """
        assert self._picture is not None
        region = self.corrections.begin(seq, seed, frame, self._picture)
        region.track = replace(region.track, label=seed.label)
        return region.track

    def take_segment(self, seq: int, seed: RegionSeed, frame: Frame, rid: str | None) -> Track:
        """The region of a segment of keyframe `seq`: `rid`, one that is there already, or a new
        one, on the newest `frame`. Raises `RegionError`.
        """
        assert self._picture is not None
        return self.corrections.take_segment(seq, seed, frame, self._picture, rid).track

    def follows(self, rid: str) -> bool:
        """Whether the region lives."""
        return self._regions.get(rid) is not None

    def end_segment(self, rid: str) -> Track:
        """End a region that is no segment any more."""
        return self._regions.end(rid, "replaced")

    def list_tracks(self, frame: Frame) -> TrackSet:
        """All regions as they are now, on `frame`, the newest."""
        tracks = tuple(region.track for region in self._regions)
        return TrackSet(frame.stream, frame.seq, frame.captured_ns, tracks)

    def begin_things(self, frame: Frame, *, now_ns: int) -> TrackSet:
        """Take up a segmenter's answer on `frame`, the newest, without waiting for another."""
        assert self._picture is not None
        self._regions.forget_news()
        self.corrections.apply(frame, self._picture, now_ns=now_ns)
        self._mark_parts()
        return self.list_tracks(frame)

    def _carried(self, rid: str) -> TrackedRegion:
        region = self._regions.get(rid)
        if region is None:
            raise RequestError(f"no region {rid!r}", code="NOT_FOUND")
        if region.is_given:
            raise RequestError(f"region {rid!r} is the sender's to change", code="FORBIDDEN")
        return region

    def close(self, reason: str) -> tuple[Track, ...]:
        """End all regions."""
        return self._regions.end_all(reason)

    # --- keyframes -------------------------------------------------------------------------------

    def keyframe(
        self, frame: Frame, *, things: int = 0, candidates: int = 0, segments: int = 0
    ) -> KeyframeRequest | None:
        """What a segmenter should cut out of `frame`, the newest that `update` saw, when at most
        `things` regions may be of its own finding; None when there is nothing. Until `corrections`
        has the answer, every frame leads on from here.
        """
        assert self._picture is not None
        return self.corrections.open(
            frame, self._picture, things=things, candidates=candidates, segments=segments
        )

    # --- frames ----------------------------------------------------------------------------------

    def _begin(self, frame: Frame) -> tuple[Track, ...]:
        work = work_size(frame.height, frame.width, work_width_px=self._config.work_width_px)
        size = FrameSize((frame.height, frame.width), work)
        before, same_session = self._size, self._session == frame.session_id
        self._size, self._session = size, frame.session_id
        if before is None or (same_session and before == size):
            return ()
        self.corrections.forget()
        if same_session and _are_alike(before, size):
            for region in self._regions:
                region.resize(before, size)
            self._picture = self._picture and self._picture.resized(work)
            return ()
        self._picture = None
        return self.close("restart")

    def _carry(self, frame: Frame, now_ns: int) -> WorkImage:
        before, picture = self._picture, self._look_at(frame)
        self._picture = picture
        self._begin_new()
        if frame.regions is None and before is not None:
            self._adopt(before)
        carried = [region for region in self._regions if region.propagator is not None]
        moving = [region for region in carried if not region.is_lost]
        if before is not None and (moving or self.corrections.is_open):
            flow = self._flow.between(before.gray, picture.gray)
            self.corrections.follow(flow)
            self._background.see(picture.rgb, flow, _covered(picture, moving))
            self._move(moving, picture, flow)
            for region in moving:
                self._judge(region, frame, flow, now_ns)
        elif carried:
            self._background.see(picture.rgb, None, _covered(picture, moving))
        self.corrections.apply(frame, picture, now_ns=now_ns)
        due = [region for region in carried if region.is_lost and self._is_due(region)]
        if due:
            search = LostSearch(picture, self._background)
            for region in due:
                self._search(region, frame, search)
        return picture

    def _begin_new(self) -> None:
        """What regions that began on the last picture show is no background, however long it has
        stood there.
        """
        for region in self._regions:
            if region.propagator is not None and region.propagator.is_new:
                self._background.hold(region.propagator.soft > 0.5)
                region.propagator.is_new = False

    def _look_at(self, frame: Frame) -> WorkImage:
        assert self._size is not None
        rgb = shrink(frame.image, self._size.work)
        gray = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        return WorkImage(rgb=rgb, gray=gray, bins=colour_bins(rgb))

    # --- carried regions -------------------------------------------------------------------------

    def _adopt(self, before: WorkImage) -> None:
        """Carry on the given regions of a sender that stopped sending masks."""
        for region in self._regions:
            if region.propagator is None and region.track.mask is not None:
                self._carry_from(region, before, region.track.mask)

    def _carry_from(self, region: TrackedRegion, picture: WorkImage, mask: Mask) -> None:
        small = shrunk(mask, picture.size)
        region.propagator = MaskPropagator(self._config, picture, small)
        region.template = take_template(picture, small)

    def _move(self, moving: Sequence[TrackedRegion], picture: WorkImage, flow: FlowField) -> None:
        """Carry all masks onto `picture`. A pixel that two regions claim, which were apart before,
        goes to one of them.
        """
        propagators = [region.propagator for region in moving if region.propagator is not None]
        before = [propagator.soft > 0.5 for propagator in propagators]
        claims = np.zeros(picture.size, np.uint8)
        for propagator in propagators:
            propagator.move(picture, flow, self._background)
            claims += propagator.soft > 0.5
        if (claims > 1).any():
            _separate(propagators, before, flow)
        for one in propagators:
            if one.is_half_hidden and any(one.is_behind(other) for other in propagators):
                one.hide()

    def _judge(self, region: TrackedRegion, frame: Frame, flow: FlowField, now_ns: int) -> None:
        assert region.propagator is not None
        assert self._picture is not None
        reason = region.propagator.judge(self._picture, flow)
        mask = full_size(region.propagator.soft, frame)
        if reason is None and not mask.any():
            reason = "occluded"
        if reason is not None:
            region.lose(reason, now_ns)
            return
        if region.seed is not None:
            region.seed = _moved(region.seed, flow, frame)
        if region.propagator.is_sound:
            region.template = (
                take_template(self._picture, region.propagator.soft) or region.template
            )
        region.see(mask)

    def _is_due(self, region: TrackedRegion) -> bool:
        return self._frames % (self._config.recover_every << region.finds) == 0

    def _search(self, region: TrackedRegion, frame: Frame, search: LostSearch) -> None:
        region.miss()
        if region.propagator is None or self._picture is None:
            return
        taken = self._alike(region)
        soft = self._found(region.propagator, region.template, search, taken)
        if soft is None:
            return
        mask = full_size(soft, frame)
        if mask.any() and not self._taken(mask, region):
            region.propagator.place(soft)
            region.finds = min(region.finds + 1, _MAX_BACKOFF)
            region.see(mask)

    def _found(
        self,
        propagator: MaskPropagator,
        template: RegionTemplate | None,
        search: LostSearch,
        taken: Mask,
    ) -> F32 | None:
        """Where a lost region is seen, as a soft mask; None when it is not."""
        assert self._picture is not None
        config = self._config
        if propagator.seen_where_it_stood(self._background) >= _BACK_SHARE:
            return propagator.stood
        for soft in search.pieces(propagator.usual_area_px, taken):
            if propagator.looks_like(self._picture, soft > 0.5) >= _PIECE_APPEARANCE:
                return soft
        found = None if template is None else search.redetect(template, taken)
        if found is None or found.score < config.recover_score:
            return None
        likeness = propagator.looks_like(self._picture, found.soft > 0.5)
        return found.soft if likeness >= config.recover_appearance else None

    def _alike(self, seeker: TrackedRegion) -> Mask:
        """Where regions of the seeker's size are, bool of the work picture: it is none of them."""
        assert self._picture is not None
        assert seeker.propagator is not None
        taken, area_px = np.zeros(self._picture.size, np.bool_), seeker.propagator.usual_area_px
        for other in self._regions:
            if other.propagator is not None and not other.is_lost:
                ratio = other.propagator.usual_area_px / area_px
                if 1 / _ALIKE_SIZE < ratio < _ALIKE_SIZE:
                    taken |= other.propagator.soft > 0.5
        return taken

    def _taken(self, mask: Mask, seeker: TrackedRegion) -> bool:
        """True when a region other than the seeker's parent or part is already there: twins are not
        swapped.
        """
        return any(
            other is not seeker
            and other.track.mask is not None
            and iou(other.track.mask, mask) > 0.5
            for other in self._regions
        )

    def _mark_parts(self) -> None:
        """Tell new regions that lie inside others: a part is carried with less trust in colour."""
        for region in self._regions:
            if region.track.state is TrackState.NEW and region.propagator is not None:
                region.propagator.is_part = any(
                    other is not region and _lies_inside(region.track.mask, other.track.mask)
                    for other in self._regions
                )

    def _start_carried(self, frame: Frame, seed: RegionSeed) -> Track:
        assert self._picture is not None
        self._regions.check_room()  # before a mask is made: that is what a flood of prompts costs
        mask = seed_mask(seed, frame.image)
        region = self._regions.start(seed, mask)
        self._mark_drawn(region, seed, frame)
        self._carry_from(region, self._picture, mask)
        return region.track

    def _mark_drawn(self, region: TrackedRegion, seed: RegionSeed, frame: Frame) -> None:
        is_exact = seed.mask is not None or bool(seed.polygons_xy_px)
        region.seed = seed if self._has_segmenter and not is_exact else None
        region.drawn_seq = frame.seq


def _are_alike(one: FrameSize, other: FrameSize) -> bool:
    """Whether frames of two sizes may show the same: 4:3 and 16:9 do, upright and lying do not."""
    ratio = (one.frame[0] * other.frame[1]) / (one.frame[1] * other.frame[0])
    return 1 / _SHAPE_CHANGE < ratio < _SHAPE_CHANGE


def _moved(seed: RegionSeed, flow: FlowField, frame: Frame) -> RegionSeed:
    """A point or box of the previous frame, with its further clicks, where it is on `frame`."""
    across = flow.backward.shape[1] / frame.width
    down = flow.backward.shape[0] / frame.height
    x0, y0, x1, y1 = seed.box_xyxy_px or (*_point(seed), *_point(seed))
    old = (x0 + x1) / 2 * across, (y0 + y1) / 2 * down
    new = follow_point(old, flow.backward)
    dx, dy = (new[0] - old[0]) / across, (new[1] - old[1]) / down

    def move(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point[0] + dx, point[1] + dy
        return min(max(0.0, x), frame.width - 1.0), min(max(0.0, y), frame.height - 1.0)

    return replace(
        seed,
        point_xy_px=None if seed.point_xy_px is None else move(seed.point_xy_px),
        box_xyxy_px=seed.box_xyxy_px and (x0 + dx, y0 + dy, x1 + dx, y1 + dy),
        more_points_xy_px=tuple(map(move, seed.more_points_xy_px)),
        not_points_xy_px=tuple(map(move, seed.not_points_xy_px)),
    )


def _point(seed: RegionSeed) -> tuple[float, float]:
    assert seed.point_xy_px is not None  # a seed that is kept is a point or a box
    return seed.point_xy_px


def _covered(picture: WorkImage, regions: Sequence[TrackedRegion]) -> Mask:
    """Where regions are, bool of the work picture's size."""
    covered = np.zeros(picture.size, np.bool_)
    for region in regions:
        if region.propagator is not None:
            covered |= region.propagator.soft > 0.2
    return covered


def _separate(
    propagators: Sequence[MaskPropagator], before: Sequence[Mask], flow: FlowField
) -> None:
    """Give each pixel that two regions claim, which were apart `before`, to one of them."""
    now = [one.soft > 0.5 for one in propagators]
    for number, one in enumerate(propagators):
        for at in range(number + 1, len(propagators)):
            contested = now[number] & now[at]
            if contested.any() and not (before[number] & before[at]).any():
                one.yield_to(propagators[at], contested, flow)
                now[number], now[at] = one.soft > 0.5, propagators[at].soft > 0.5


def _lies_inside(part: Mask | None, whole: Mask | None) -> bool:
    if part is None or whole is None:
        return False
    area = np.count_nonzero(part)
    covered = np.count_nonzero(part & whole)
    return bool(covered >= _PART_SHARE * area and np.count_nonzero(whole) > area)
