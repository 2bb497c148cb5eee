"""Updates the regions with a segmenter's masks, after the checks that every mask must pass.

A keyframe's result may come late: `KeyframeWarp` warps its masks to the newest image. A mask is
used if the segmenter's score is high, if it agrees with the propagated mask, and if its size and
colours are those of the region. (A segmenter that lost its object returns the whole image or a
neighbour.) A rejected mask is counted and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ureca.datatypes import Frame, Mask, RegionSeed
from ureca.errors import RegionError
from ureca.node.config import TrackerConfig
from ureca.node.masks.color_histogram import F32
from ureca.node.masks.geometry import full_size, iou, shrunk
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeResult,
    RegionMask,
    RegionPrompt,
)
from ureca.node.segmenter_config import MaskThresholds
from ureca.node.tracking.keyframe_warp import KeyframeWarp
from ureca.node.tracking.mask_propagation import MaskPropagator, WorkImage
from ureca.node.tracking.optical_flow import FlowField
from ureca.node.tracking.redetection import take_template
from ureca.node.tracking.track_registry import TrackedRegion, TrackRegistry
from ureca.protocol.rle import decode

_MAX_KEPT = 2
"""Keyframes of which texts are being asked: one in the segmenter, one at the captioner."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A region as it was on the keyframe: the very propagator, and where it had the region."""

    propagator: MaskPropagator
    soft: F32
    wanted: RegionPrompt

    @property
    def is_lost(self) -> bool:
        return self.wanted.soft is None


class MaskCorrections:
    """The keyframe of one stream and its result."""

    def __init__(self, config: TrackerConfig, regions: TrackRegistry) -> None:
        self._config = config.fill(MaskThresholds())
        self._regions = regions
        self._warp: KeyframeWarp | None = None
        self._kept: dict[int, KeyframeWarp] = {}
        """By frame, the keyframes whose masks may still begin regions: texts are asked of them."""
        self._held: dict[str, _Held] = {}
        self._answer: KeyframeResult | None = None
        self._taken: set[str] = set()
        self.counts: Counter[str] = Counter()
        """Masks `taken`, and those refused by the gate that refused them; things that `began` by
        themselves."""
        self.left_out: Counter[str] = Counter()
        """The most things of one keyframe that were not begun, by the setting that says so."""

    @property
    def is_open(self) -> bool:
        """Whether an answer is awaited, of the segmenter or to a text."""
        return self._warp is not None or bool(self._kept)

    @property
    def has_things(self) -> bool:
        """Whether there is an answer with things that nobody pointed at."""
        answer = self._answer if self._warp is not None else None
        return answer is not None and any(one.rid is None for one in answer.region_masks)

    def forget(self) -> None:
        """The keyframe is no longer of this stream's pictures."""
        self._warp = self._answer = None
        self._kept.clear()

    def open(
        self,
        frame: Frame,
        picture: WorkImage,
        *,
        things: int = 0,
        candidates: int = 0,
        segments: int = 0,
    ) -> KeyframeRequest | None:
        """Make `frame`, whose small picture is `picture`, the keyframe. At most `things` regions
        may be found by the segmenter itself. With `candidates`, `begin` may start regions of it
        until `release`, and so with `segments` (whole frames); regions that began from segments are
        then not asked about.
        """
        self._held = {
            region.track.rid: _Held(
                region.propagator, region.propagator.soft, _wanted(region, frame.seq)
            )
            for region in self._regions
            if region.propagator is not None and not (segments and region.is_found)
        }
        taken, self._taken = frozenset(self._taken), set()
        self._end_seeds()
        free_slots = max(0, min(self._regions.free_slots, things - self._regions.found))
        if not self._held and max(free_slots, candidates, segments) < 1:
            return None
        self._warp, self._answer = KeyframeWarp(frame.seq, picture), None
        if candidates or segments:
            self._kept[frame.seq] = self._warp
            while len(self._kept) > _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        wanted = {rid: held.wanted for rid, held in self._held.items()}
        return KeyframeRequest(frame, wanted, free_slots, candidates, taken, segments)

    def _end_seeds(self) -> None:
        """A segmenter is asked about each seed once."""
        for region in self._regions:
            if region.seed is not None:
                region.seed, region.drawn_seq = None, -1

    def release(self, seq: int) -> None:
        """Nothing will begin on the keyframe `seq` any more."""
        self._kept.pop(seq, None)

    def follow(self, flow: FlowField) -> None:
        """One more frame has come."""
        for warp in {id(one): one for one in (self._warp, *self._kept.values()) if one}.values():
            warp.follow(flow)

    def offer(self, keyframe_result: KeyframeResult) -> None:
        """A segmenter's answer: taken up by the next `apply`, and forgotten if it is of another
        keyframe than the last.
        """
        if self._warp is not None and keyframe_result.seq == self._warp.seq:
            self._answer = keyframe_result

    def apply(self, frame: Frame, picture: WorkImage, *, now_ns: int) -> None:
        """Take the answer up, if there is one, on the newest frame."""
        warp, answer = self._warp, self._answer
        if warp is None or answer is None:
            return
        self._warp = self._answer = None
        self.left_out |= Counter(answer.left_out)
        for region_mask in answer.region_masks:
            if region_mask.rid is None:
                self._begin(region_mask, warp, frame, picture)
            elif (region := self._regions.get(region_mask.rid)) is not None:
                outcome = self._correct(region, region_mask, warp, frame, picture)
                self.counts[outcome] += 1
                if outcome == "taken":
                    self._taken.add(region_mask.rid)
                self._count(region, outcome, now_ns)

    # --- one region ------------------------------------------------------------------------------

    def _correct(
        self,
        region: TrackedRegion,
        region_mask: RegionMask,
        warp: KeyframeWarp,
        frame: Frame,
        picture: WorkImage,
    ) -> str:
        """Correct the region; `taken`, or the gate that refused."""
        held = self._held[region.track.rid]
        if region.propagator is not held.propagator:
            return "outdated"  # somebody has said since where it is
        cut = shrunk(decode(region_mask.mask), warp.picture.size)
        refusal = self._refusal(held, region_mask, cut, warp)
        if refusal is not None:
            return refusal
        propagator = held.propagator if held.wanted.seed is None else self._anew(held, cut, warp)
        now = warp.forward(cut)
        if not (now > 0.5).any() or (
            region.is_lost and not self._is_back(propagator, now, picture)
        ):
            return "gone"
        propagator.correct(warp.picture, cut, now, picture if warp.is_far else None)
        mask = full_size(propagator.soft, frame)
        if not mask.any():
            return "gone"
        region.propagator = propagator
        if region.is_lost:
            region.see(mask)
        else:
            region.correct(mask)
        region.template = take_template(picture, now) or region.template
        return "taken"

    def _count(self, region: TrackedRegion, outcome: str, now_ns: int) -> None:
        """What is carried where the segmenter sees nothing, time and again, has drifted away."""
        if outcome != "presence" or region.is_lost:
            region.absences = 0
            return
        region.absences += 1
        if region.absences >= self._config.bad_keyframes:
            region.absences = 0
            region.lose("drift", now_ns)

    def _anew(self, held: _Held, cut: F32, warp: KeyframeWarp) -> MaskPropagator:
        """Start a propagator from the mask that the segmenter gave for a prompt."""
        propagator = MaskPropagator(self._config, warp.picture, cut)
        propagator.is_part = held.propagator.is_part
        return propagator

    def _refusal(
        self, held: _Held, region_mask: RegionMask, cut: F32, warp: KeyframeWarp
    ) -> str | None:
        """The first gate that the cut does not pass; None when it passes all."""
        config, inside = self._config, np.asarray(cut > 0.5, np.bool_)
        passes = {
            "presence": region_mask.presence >= _known(config.min_presence),
            "full_frame": float(inside.mean()) <= config.max_area_share_of_frame,
        }
        if held.wanted.seed is None:  # else nothing is known yet but where it was pointed at
            before = np.asarray(held.soft > 0.5, np.bool_)
            remembered = region_mask.agreement or 0.0
            carried = 0.0 if held.is_lost else iou(inside, before)
            is_remembered = remembered >= _known(config.min_memory)
            passes |= {
                "disagreement": is_remembered or carried >= _known(config.min_agreement),
                "area_jump": self._fits(inside, before, held, is_remembered=is_remembered),
                "appearance": held.propagator.looks_like(warp.picture, inside)
                >= config.min_appearance,
            }
        return next((gate for gate, is_passed in passes.items() if not is_passed), None)

    def _fits(self, inside: Mask, before: Mask, held: _Held, *, is_remembered: bool) -> bool:
        """Whether the size is the region's. A mask that the memory confirms may shrink at will: a
        segmenter that has lost its object answers with too much.
        """
        area_px, config = int(np.count_nonzero(inside)), self._config
        share = area_px / held.propagator.usual_area_px
        if share > config.max_area_growth:
            return False
        jump = area_px / max(1, int(np.count_nonzero(before)))
        is_near = 1 / config.max_area_jump <= jump <= config.max_area_jump
        return is_remembered or (is_near and share >= 1 / config.max_area_growth)

    def _is_back(self, propagator: MaskPropagator, now: F32, picture: WorkImage) -> bool:
        """Whether a region that is lost is seen there after all."""
        return propagator.looks_like(picture, now > 0.5) >= self._config.min_appearance

    # --- things nobody pointed at ----------------------------------------------------------------

    def _begin(
        self, region_mask: RegionMask, warp: KeyframeWarp, frame: Frame, picture: WorkImage
    ) -> None:
        """Start a region, unless there is no room, or something is already there."""
        cut = shrunk(decode(region_mask.mask), warp.picture.size)
        now = warp.forward(cut)
        mask = full_size(now, frame)
        if self._regions.free_slots < 1 or not mask.any() or self._known(mask) is not None:
            self.counts["known"] += 1
            return
        seed = RegionSeed(mask=region_mask.mask, label=region_mask.label)
        self._start(seed, cut, warp, mask, picture).is_found = True
        self.counts["began"] += 1

    def begin(self, seq: int, seed: RegionSeed, frame: Frame, picture: WorkImage) -> TrackedRegion:
        """The region of a mask of keyframe `seq`: what is already there, or a new one, moved to the
        newest `frame`. Raises `RegionError` when it cannot be followed.
        """
        warp = self._kept.get(seq)
        if warp is None or seed.mask is None:
            raise RegionError(f"keyframe {seq} is gone: the source began anew, or it took too long")
        cut = shrunk(decode(seed.mask), warp.picture.size)
        mask = full_size(warp.forward(cut), frame)
        if not mask.any():
            raise RegionError("what was found has left the picture")
        known = self._known(mask)
        if known is not None:
            return known
        self._regions.check_room()
        return self._start(seed, cut, warp, mask, picture)

    def take_segment(
        self, seq: int, seed: RegionSeed, frame: Frame, picture: WorkImage, rid: str | None
    ) -> TrackedRegion:
        """Set the region `rid` to a segment of keyframe `seq`, moved to the newest `frame`; without
        `rid` as `begin`. Raises `RegionError` as that does.
        """
        region = None if rid is None else self._regions.get(rid)
        if region is None:
            known = {id(one) for one in self._regions}
            began = self.begin(seq, seed, frame, picture)
            began.is_found |= id(began) not in known
            return began
        warp = self._kept.get(seq)
        assert seed.mask is not None
        if warp is None:
            raise RegionError(f"keyframe {seq} is gone: the source began anew, or it took too long")
        cut = shrunk(decode(seed.mask), warp.picture.size)
        now = warp.forward(cut)
        mask = full_size(now, frame)
        if not mask.any():
            raise RegionError("the segment has left the picture")
        region.propagator = MaskPropagator(self._config, warp.picture, cut)
        region.propagator.place(now)
        region.template = take_template(picture, now) or region.template
        if region.is_lost:
            region.see(mask)
        else:
            region.correct(mask)
        return region

    def _start(
        self, seed: RegionSeed, cut: F32, warp: KeyframeWarp, mask: Mask, picture: WorkImage
    ) -> TrackedRegion:
        now = warp.forward(cut)
        region = self._regions.start(seed, mask)
        region.propagator = MaskPropagator(self._config, warp.picture, cut)
        region.propagator.place(now)
        region.template = take_template(picture, now)
        return region

    def _known(self, mask: Mask) -> TrackedRegion | None:
        """The region that is there already."""
        return next(
            (
                region
                for region in self._regions
                if region.track.mask is not None and iou(region.track.mask, mask) > 0.5
            ),
            None,
        )


def _wanted(region: TrackedRegion, seq: int) -> RegionPrompt:
    assert region.propagator is not None
    soft, is_here = region.propagator.soft, region.drawn_seq == seq
    if region.is_lost or not (soft > 0.5).any():
        return RegionPrompt()
    return RegionPrompt(soft, seed=region.seed, is_drawn=is_here and region.seed is None)


def _known(threshold: float | None) -> float:
    """A threshold that `TrackerConfig.fill` has set."""
    assert threshold is not None
    return threshold
