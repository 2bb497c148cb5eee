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
from ureca.node.config import TrackerConfig
from ureca.node.masks.color_histogram import F32
from ureca.node.masks.geometry import full_size, iou, shrunk
from ureca.node.masks.optical_flow import FlowField
from ureca.node.segmentation.keyframe_segmenter import (
    KeyframeRequest,
    KeyframeResult,
    RegionMask,
    RegionPrompt,
)
from ureca.node.tracking.keyframe_warp import KeyframeWarp
from ureca.node.tracking.mask_propagation import MaskPropagator, WorkImage
from ureca.node.tracking.redetection import take_template
from ureca.node.tracking.track_registry import TrackedRegion, TrackRegistry
from ureca.protocol.rle import decode


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
        self._config = config
        self._regions = regions
        self._warp: KeyframeWarp | None = None
        self._held: dict[str, _Held] = {}
        self._answer: KeyframeResult | None = None
        self._taken: set[str] = set()
        self.counts: Counter[str] = Counter()
        """Masks `taken`, and those refused by the gate that refused them."""

    @property
    def is_open(self) -> bool:
        """Whether an answer is awaited."""
        return self._warp is not None

    def forget(self) -> None:
        """The keyframe is no longer of this stream's pictures."""
        self._warp = self._answer = None

    def open(self, frame: Frame, picture: WorkImage, *, everything: bool) -> KeyframeRequest | None:
        """Make `frame`, whose small picture is `picture`, the keyframe."""
        self._held = {
            region.track.rid: _Held(
                region.propagator, region.propagator.soft, _wanted(region, frame.seq)
            )
            for region in self._regions
            if region.propagator is not None
        }
        taken, self._taken = frozenset(self._taken), set()
        room = self._regions.room if everything else 0
        if not self._held and room < 1:
            return None
        self._warp, self._answer = KeyframeWarp(frame.seq, picture), None
        wanted = {rid: held.wanted for rid, held in self._held.items()}
        return KeyframeRequest(frame, wanted, room, taken)

    def follow(self, flow: FlowField) -> None:
        """One more frame has come."""
        if self._warp is not None:
            self._warp.follow(flow)

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
        region.propagator, region.seed = propagator, None
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
            "presence": region_mask.presence >= config.min_presence,
            "full_frame": float(inside.mean()) <= config.max_area_share_of_frame,
        }
        if held.wanted.seed is None:  # else nothing is known yet but where it was pointed at
            before = np.asarray(held.soft > 0.5, np.bool_)
            remembered = region_mask.agreement or 0.0
            carried = 0.0 if held.is_lost else iou(inside, before)
            is_remembered = remembered >= config.min_memory
            passes |= {
                "disagreement": is_remembered or carried >= config.min_agreement,
                "area_jump": self._fits(inside, before, held, is_remembered=is_remembered),
                "appearance": held.propagator.looks_like(warp.picture, inside)
                >= config.min_appearance,
            }
        return next((gate for gate, is_passed in passes.items() if not is_passed), None)

    def _fits(self, inside: Mask, before: Mask, held: _Held, *, is_remembered: bool) -> bool:
        """Whether the size is the region's. What the memory vouches for may shrink at will: a
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
        if self._regions.room < 1 or not mask.any() or self._is_known(mask):
            self.counts["known"] += 1
            return
        region = self._regions.start(RegionSeed(mask=region_mask.mask), mask)
        region.propagator = MaskPropagator(self._config, warp.picture, cut)
        region.propagator.place(now)
        region.template = take_template(picture, now)

    def _is_known(self, mask: Mask) -> bool:
        return any(
            region.track.mask is not None and iou(region.track.mask, mask) > 0.5
            for region in self._regions
        )


def _wanted(region: TrackedRegion, seq: int) -> RegionPrompt:
    assert region.propagator is not None
    soft, is_here = region.propagator.soft, region.drawn_seq == seq
    if region.is_lost or not (soft > 0.5).any():
        return RegionPrompt()
    return RegionPrompt(
        soft, seed=region.seed if is_here else None, is_drawn=is_here and region.seed is None
    )
