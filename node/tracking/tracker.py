"""Keeps the identities of one stream's regions: new, followed, lost, recovered or ended.

There are two kinds of region. *Given* regions come with every frame from a sender that has its own
masks (`detection_tracking`). *Carried* regions are given once (a prompt, or a describe-and-follow)
and propagated by `mask_propagation.MaskPropagator`; a segmenter may correct them on
keyframes (`mask_correction`).

Reasons for `lost`: `drift` (flow contradicts itself, or a segmenter sees nothing there), `occluded`
(most of it vanished inside the picture), `left_view` (it vanished at the border), `area_jump` (it
grew or shrank as no motion does), `appearance` (its colours are no longer the region's), `absent`
(the sender stopped listing it), `bad_region` (what the sender says of it is no region of the
frame). Reasons for the end: `lost_ttl`, `restart` (the source began anew or changed its picture
size), `removed` (on request), `source_end`. Ids are never used twice.

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
from ureca.node.masks.color_histogram import colour_bins
from ureca.node.masks.geometry import full_size, iou, shrunk
from ureca.node.masks.optical_flow import FlowEstimator, FlowField, shrink, work_size
from ureca.node.masks.prompt_to_mask import seed_mask
from ureca.node.segmentation.keyframe_segmenter import KeyframeRequest
from ureca.node.tracking.detection_tracking import DetectionTracker, start_or_refuse
from ureca.node.tracking.mask_correction import MaskCorrections
from ureca.node.tracking.mask_propagation import MaskPropagator, WorkImage
from ureca.node.tracking.redetection import redetect, take_template
from ureca.node.tracking.track_registry import TrackedRegion, TrackRegistry

_PART_SHARE = 0.8
_MAX_BACKOFF = 6


@dataclass(frozen=True, slots=True)
class Update:
    """The outcome of one frame: all tracks, and why seeds were refused."""

    tracks: TrackSet
    refused: tuple[Refusal, ...] = ()


class Tracker:
    """Follows the regions of one stream."""

    def __init__(self, config: TrackerConfig, *, max_regions: int) -> None:
        self._config = config
        self._flow = FlowEstimator(config.flow_preset)
        self._regions = TrackRegistry(max_regions)
        self._given = DetectionTracker(config, self._regions)
        self.corrections = MaskCorrections(config, self._regions)
        """Takes a segmenter's answers, and counts what became of their masks."""
        self._picture: WorkImage | None = None
        self._epoch: tuple[bytes, int, int] | None = None
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
        for prompt in prompts:
            start_or_refuse(partial(self._start_carried, frame, prompt), prompt, refused)
        self._mark_parts()
        ended += self._regions.expire(ttl_ns=int(self._config.lost_ttl_s * 1e9), now_ns=now_ns)
        tracks = (*ended, *(region.track for region in self._regions))
        return Update(TrackSet(frame.stream, frame.seq, frame.captured_ns, tracks), tuple(refused))

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
        _drawn(region, seed, frame)
        region.see(mask)
        region.track = replace(region.track, label=seed.label or region.track.label)
        return region.track

    def remove(self, rid: str) -> Track:
        """End a carried region; raises `RequestError` when there is none."""
        self._carried(rid)
        return self._regions.end(rid, "removed")

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

    def keyframe(self, frame: Frame, *, everything: bool = False) -> KeyframeRequest | None:
        """What a segmenter should cut out of `frame`, the newest that `update` saw; None when there
        is nothing. Until `corrections` has the answer, every frame leads on from here.
        """
        assert self._picture is not None
        return self.corrections.open(frame, self._picture, everything=everything)

    # --- frames ----------------------------------------------------------------------------------

    def _begin(self, frame: Frame) -> tuple[Track, ...]:
        epoch = (frame.session_id, frame.height, frame.width)
        restarted = self._epoch is not None and self._epoch != epoch
        self._epoch = epoch
        if not restarted:
            return ()
        self._picture = None
        self.corrections.forget()
        return self.close("restart")

    def _carry(self, frame: Frame, now_ns: int) -> WorkImage:
        before, picture = self._picture, self._look_at(frame)
        self._picture = picture
        if frame.regions is None and before is not None:
            self._adopt(before)
        carried = [region for region in self._regions if region.propagator is not None]
        moving = [region for region in carried if not region.is_lost]
        if before is not None and (moving or self.corrections.is_open):
            flow = self._flow.between(before.gray, picture.gray)
            self.corrections.follow(flow)
            for region in moving:
                self._move(region, frame, flow, now_ns)
        self.corrections.apply(frame, picture, now_ns=now_ns)
        for region in carried:
            if region.is_lost and self._frames % (self._config.recover_every << region.finds) == 0:
                self._search(region, frame)
        return picture

    def _look_at(self, frame: Frame) -> WorkImage:
        size = work_size(frame.height, frame.width, work_width_px=self._config.work_width_px)
        rgb = shrink(frame.image, size)
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

    def _move(self, region: TrackedRegion, frame: Frame, flow: FlowField, now_ns: int) -> None:
        assert region.propagator is not None
        assert self._picture is not None
        reason = region.propagator.move(self._picture, flow)
        mask = full_size(region.propagator.soft, frame)
        if reason is None and not mask.any():
            reason = "occluded"
        if reason is not None:
            region.lose(reason, now_ns)
            return
        if region.propagator.is_sound:
            region.template = (
                take_template(self._picture, region.propagator.soft) or region.template
            )
        region.see(mask)

    def _search(self, region: TrackedRegion, frame: Frame) -> None:
        region.miss()
        if region.template is None or region.propagator is None or self._picture is None:
            return
        found = redetect(self._picture, region.template)
        if found is None or found.score < self._config.recover_score:
            return
        where = found.soft > 0.5
        if region.propagator.looks_like(self._picture, where) < self._config.recover_appearance:
            return
        mask = full_size(found.soft, frame)
        if mask.any() and not self._taken(mask, region):
            region.propagator.place(found.soft)
            region.finds = min(region.finds + 1, _MAX_BACKOFF)
            region.see(mask)

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
        _drawn(region, seed, frame)
        self._carry_from(region, self._picture, mask)
        return region.track


def _drawn(region: TrackedRegion, seed: RegionSeed, frame: Frame) -> None:
    region.seed = seed if seed.mask is None else None
    region.drawn_seq = frame.seq


def _lies_inside(part: Mask | None, whole: Mask | None) -> bool:
    if part is None or whole is None:
        return False
    area = np.count_nonzero(part)
    covered = np.count_nonzero(part & whole)
    return bool(covered >= _PART_SHARE * area and np.count_nonzero(whole) > area)
