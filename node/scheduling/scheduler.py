"""Selects the regions of one stream to caption next, and the captions to renew. Pure: tracks,
outcomes and `now_ns` in, requests and renewals out.

Order: new regions, then requested, recovered and changed ones, then those with the oldest caption.
Each pending request has a deadline, the region's `max_interval_ms` after it began. Within one kind
the earliest deadline is first. Overdue requests are before all others, so that no region starves.
(`StreamArbiter` arbitrates between streams and direct requests.)

A caption is checked (`due`, `checked`) every `min_interval_ms`. A changed region is captioned again
as soon as two checks in a row agree. A region that moves, or is seen by a moving camera, waits
until it rests, for at most `max_interval_ms`. An unchanged region is then renewed without decoding,
but for at most `rewrite_s` in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ureca.datatypes import RegionRequest, Track, TrackSet, TrackState, Trigger
from ureca.node.config import SchedulerConfig
from ureca.node.scheduling.caption_policy import Policies
from ureca.node.scheduling.change_detection import AppearanceSnapshot
from ureca.node.scheduling.region_state import CaptionedState, Priority, RegionState, area_px


@dataclass(frozen=True, slots=True)
class Abort:
    """A request in flight that has lost its point."""

    request_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Check:
    """A captioned region that is due for a comparison with its snapshot."""

    track: Track
    snapshot: AppearanceSnapshot
    before: AppearanceSnapshot | None
    """The snapshot of the last check, if the region had changed by then."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A region that differs from its caption: its snapshot now, and whether it rests."""

    snapshot: AppearanceSnapshot
    rests: bool


@dataclass(frozen=True, slots=True)
class Renewal:
    """Caption `same_rev` of a region still holds."""

    request_id: int
    rid: str
    rev: int
    same_rev: int
    ttl_ms: int


class Scheduler:
    """The pending caption requests of one stream's regions."""

    def __init__(self, config: SchedulerConfig, *, policies: Policies, ids: Iterator[int]) -> None:
        self._config = config
        self._policies = policies
        self._ids = ids
        self._regions: dict[str, RegionState] = {}

    def observe(self, tracks: TrackSet, *, now_ns: int) -> tuple[Abort, ...]:
        """Take note of where the regions are now; returns the requests in flight to abort."""
        aborts = []
        for track in tracks.tracks:
            region = self._regions.get(track.rid)
            if region is None:
                region = RegionState(track, self._policies.of(track.rid))
                self._regions[track.rid] = region
            region.track = track
            if track.mask is None:
                region.pending = None
                if region.in_flight is not None:
                    state = "ended" if track.state is TrackState.ENDED else "lost"
                    aborts.append(Abort(region.in_flight, f"track_{state}"))
            else:
                region.wants(self._trigger(region, now_ns), now_ns)
            if track.state is TrackState.ENDED:
                del self._regions[track.rid]
                self._policies.forget(track.rid)
        return tuple(aborts)

    def policies_changed(self, *, now_ns: int) -> tuple[Abort, ...]:
        """Apply the current policies. A region with another prompt gets a request at once, and its
        caption in progress is to be aborted.
        """
        aborts = []
        for rid, region in self._regions.items():
            before, region.policy = region.policy, self._policies.of(rid)
            if before.style == region.policy.style:
                continue
            if region.in_flight is not None:
                aborts.append(Abort(region.in_flight, "prompt_changed"))
            if region.captioned is not None:
                region.captioned = replace(region.captioned, snapshot=None)  # answers no longer
            if region.track.mask is not None:
                region.pending, region.since_ns = Trigger.REQUEST, now_ns
                region.not_before_ns = 0
        return tuple(aborts)

    def priority(self, *, now_ns: int) -> Priority | None:
        """The highest priority of the pending requests; None without any."""
        return min((m.priority(now_ns) for m in self._waiting(now_ns)), default=None)

    def pick(self, tracks: TrackSet, *, free_slots: int, now_ns: int) -> tuple[RegionRequest, ...]:
        """At most `free_slots` requests, highest priority first. Each is in flight until `ended` is
        called for it.
        """
        waiting = sorted(self._waiting(now_ns), key=lambda region: region.priority(now_ns))
        return tuple(
            self._request(region, tracks, now_ns) for region in waiting[: max(0, free_slots)]
        )

    def record_snapshot(self, request: RegionRequest, snapshot: AppearanceSnapshot) -> None:
        """Store the snapshot of a requested region on the frame of its caption."""
        region = self._regions[request.rid]
        if region.asked is not None:
            region.asked = replace(region.asked, snapshot=snapshot)

    def ended(self, request: RegionRequest, *, has_caption: bool, now_ns: int) -> None:
        """The terminal event of `request` was sent. Without a caption the region waits before it
        tries again.
        """
        region = self._regions.get(request.rid)
        if region is None or region.in_flight != request.request_id:
            return
        region.in_flight = None
        if has_caption:
            region.captioned, region.changed, region.failures = region.asked, None, 0
            region.written_ns = region.renewed_ns = region.checked_ns = region.asked_ns
        elif region.pending is None:  # else it was aborted to ask something else
            region.back_off(now_ns)

    # --- captions that may still hold ------------------------------------------------------------

    def due(self, *, now_ns: int) -> list[Check]:
        """The captioned regions to compare with their snapshots; call `checked` with results."""
        return [
            Check(region.track, region.captioned.snapshot, region.changed)
            for region in self._regions.values()
            if region.captioned and region.captioned.snapshot and self._is_due(region, now_ns)
        ]

    def checked(self, rid: str, changed: Changed | None, *, now_ns: int) -> Renewal | None:
        """Apply the result of a check; None if the region is unchanged. Returns the renewal if the
        caption is still valid and old enough.
        """
        region = self._regions[rid]
        region.checked_ns = now_ns
        region.changed = changed.snapshot if changed else None
        is_old, triggers = region.is_old(now_ns), region.policy.triggers
        if changed and Trigger.CHANGE in triggers:
            region.wants(Trigger.CHANGE if changed.rests or is_old else None, now_ns)
        elif is_old and Trigger.REFRESH in triggers:
            if not changed and now_ns - region.written_ns < self._config.rewrite_s * 1e9:
                return self._renewal(region, now_ns)
            region.wants(Trigger.REFRESH, now_ns)
        return None

    def _renewal(self, region: RegionState, now_ns: int) -> Renewal:
        assert region.captioned is not None  # `due` yields only those
        region.renewed_ns = now_ns
        region.rev += 1
        same_rev, ttl_ms = region.captioned.rev, region.policy.ttl_ms
        return Renewal(next(self._ids), region.track.rid, region.rev, same_rev, ttl_ms)

    def _is_due(self, region: RegionState, now_ns: int) -> bool:
        if region.track.mask is None or region.in_flight is not None or region.pending is not None:
            return False
        is_next = region.may_look(now_ns) or region.is_old(now_ns)
        return is_next and now_ns >= region.not_before_ns

    # --- how much there is to do -----------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests without their terminal event."""
        return sum(region.in_flight is not None for region in self._regions.values())

    @property
    def uncaptioned(self) -> int:
        """Visible regions that are to have a first caption and were not refused one yet."""
        return sum(
            m.track.mask is not None
            and m.captioned is None
            and m.not_before_ns == 0
            and Trigger.NEW in m.policy.triggers
            for m in self._regions.values()
        )

    def _waiting(self, now_ns: int) -> Iterator[RegionState]:
        for region in self._regions.values():
            if region.pending and region.in_flight is None and now_ns >= region.not_before_ns:
                yield region

    # --- pending requests -------------------------------------------------------------------------

    def _trigger(self, region: RegionState, now_ns: int) -> Trigger | None:
        found = self._reason(region, now_ns)
        return found if found in region.policy.triggers else None

    def _reason(self, region: RegionState, now_ns: int) -> Trigger | None:
        """Why the region should be captioned, as far as tracks alone can tell."""
        if region.captioned is None:
            return Trigger.NEW
        if region.track.state is TrackState.RECOVERED:
            return Trigger.RECOVERED
        if region.captioned.snapshot is not None and region.policy.style == "short":
            return None  # what it looks like tells more (`checked`); long captions say where it is
        if region.may_rewrite(now_ns) and self._moved(region.captioned, region.track):
            return Trigger.CHANGE
        return Trigger.REFRESH if region.is_old(now_ns) else None

    def _moved(self, before: CaptionedState, track: Track) -> bool:
        x0, y0, x1, y1 = before.box_xyxy_px
        u0, v0, u1, v1 = track.box_xyxy_px
        shift_px = math.hypot(u0 + u1 - x0 - x1, v0 + v1 - y0 - y1) / 2
        if shift_px > self._config.change_shift * math.hypot(x1 - x0, y1 - y0):
            return True
        ratio = area_px(track) / max(1, before.area_px)
        return max(ratio, 1 / max(ratio, 1e-9)) > self._config.change_area_ratio

    def _request(self, region: RegionState, tracks: TrackSet, now_ns: int) -> RegionRequest:
        track, policy = region.track, region.policy
        assert region.pending is not None  # `_waiting` yields only those
        assert track.mask is not None
        region.rev += 1
        request = RegionRequest(
            request_id=next(self._ids),
            stream=tracks.stream,
            rid=track.rid,
            rev=region.rev,
            frame_seq=tracks.frame_seq,
            mask=track.mask,
            box_xyxy_px=track.box_xyxy_px,
            trigger=region.pending,
            deadline_ns=now_ns + int(self._config.deadline_s * 1e9),
            style=policy.style,
            label=track.label,
            ttl_ms=policy.ttl_ms,
            max_new_tokens=policy.max_new_tokens,
            min_confidence=policy.min_confidence,
        )
        region.in_flight, region.asked_ns, region.pending = request.request_id, now_ns, None
        region.asked = CaptionedState(region.rev, track.box_xyxy_px, area_px(track))
        return request
