"""Which regions of one stream are captioned next. Pure: tracks, outcomes and `now_ns` in, requests
out.

Order: new regions, then recovered ones, then changed ones, then those whose caption is oldest; a
wish that has waited longer than `refresh_s` is overdue and goes before everything, oldest first, so
that no region starves however lively the others are. (Direct requests are merged in by the
pipeline, after `new`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ureca.datatypes import RegionRequest, Style, Track, TrackSet, TrackState, Trigger
from ureca.node.config import SchedulerConfig

_RANK = {
    Trigger.NEW: 0,
    Trigger.REQUEST: 1,
    Trigger.RECOVERED: 2,
    Trigger.CHANGE: 3,
    Trigger.REFRESH: 4,
}
Urgency = tuple[int, int, int]
"""(0 when overdue, rank of the trigger, waiting since ns): the smaller the more urgent."""


@dataclass(frozen=True, slots=True)
class Abort:
    """A request in flight that has lost its point."""

    request_id: int
    reason: str


@dataclass(slots=True)
class _Memory:
    """What is remembered about one region's captions."""

    track: Track
    rev: int = 0
    has_caption: bool = False
    captioned_ns: int = 0
    box_xyxy_px: tuple[int, int, int, int] = (0, 0, 0, 0)
    area_px: int = 0
    asked_box: tuple[int, int, int, int] = (0, 0, 0, 0)
    asked_area: int = 0
    in_flight: int | None = None
    wish: Trigger | None = None
    since_ns: int = 0
    not_before_ns: int = 0


class Scheduler:
    """The wishes of one stream's regions."""

    def __init__(self, config: SchedulerConfig, *, style: Style, ids: Iterator[int]) -> None:
        self._config = config
        self._style: Style = style
        self._ids = ids
        self._regions: dict[str, _Memory] = {}

    def observe(self, tracks: TrackSet, *, now_ns: int) -> tuple[Abort, ...]:
        """Take note of where the regions are now; returns the requests in flight to abort."""
        aborts = []
        for track in tracks.tracks:
            memory = self._regions.setdefault(track.rid, _Memory(track=track))
            memory.track = track
            if track.mask is None:
                memory.wish = None
                if memory.in_flight is not None:
                    state = "ended" if track.state is TrackState.ENDED else "lost"
                    aborts.append(Abort(memory.in_flight, f"track_{state}"))
            else:
                self._wish(memory, now_ns)
            if track.state is TrackState.ENDED:
                del self._regions[track.rid]
        return tuple(aborts)

    def urgency(self, *, now_ns: int) -> Urgency | None:
        """How urgent the most urgent wish is; None when there is none."""
        return min((self._key(m, now_ns) for m in self._waiting(now_ns)), default=None)

    def pick(self, tracks: TrackSet, *, room: int, now_ns: int) -> tuple[RegionRequest, ...]:
        """At most `room` requests, most urgent first. They are in flight until `ended` is told of
        each.
        """
        waiting = sorted(self._waiting(now_ns), key=lambda memory: self._key(memory, now_ns))
        return tuple(self._request(memory, tracks, now_ns) for memory in waiting[: max(0, room)])

    def ended(self, request: RegionRequest, *, has_caption: bool, now_ns: int) -> None:
        """The terminal event of `request` was sent. Without a caption the region waits before it
        tries again.
        """
        memory = self._regions.get(request.rid)
        if memory is None or memory.in_flight != request.request_id:
            return
        memory.in_flight = None
        if has_caption:
            memory.has_caption = True
            memory.captioned_ns = now_ns
            memory.box_xyxy_px, memory.area_px = memory.asked_box, memory.asked_area
        else:
            memory.not_before_ns = now_ns + int(self._config.min_interval_s * 1e9)

    @property
    def in_flight(self) -> int:
        """Requests without their terminal event."""
        return sum(memory.in_flight is not None for memory in self._regions.values())

    @property
    def uncaptioned(self) -> int:
        """Visible regions that never had a caption and were not refused one yet."""
        return sum(
            m.track.mask is not None and not m.has_caption and m.not_before_ns == 0
            for m in self._regions.values()
        )

    def _waiting(self, now_ns: int) -> Iterator[_Memory]:
        for memory in self._regions.values():
            if memory.wish and memory.in_flight is None and now_ns >= memory.not_before_ns:
                yield memory

    def _key(self, memory: _Memory, now_ns: int) -> Urgency:
        assert memory.wish is not None
        overdue = now_ns - memory.since_ns > self._config.refresh_s * 1e9
        return (0 if overdue else 1, 0 if overdue else _RANK[memory.wish], memory.since_ns)

    def _wish(self, memory: _Memory, now_ns: int) -> None:
        trigger = self._trigger(memory, now_ns)
        if trigger is None or memory.in_flight is not None:
            return
        if memory.wish is None:
            memory.wish, memory.since_ns = trigger, now_ns
        elif _RANK[trigger] < _RANK[memory.wish]:
            memory.wish = (
                trigger  # it keeps its place in time: a promotion must not make it wait longer
            )

    def _trigger(self, memory: _Memory, now_ns: int) -> Trigger | None:
        if not memory.has_caption:
            return Trigger.NEW
        if memory.track.state is TrackState.RECOVERED:
            return Trigger.RECOVERED
        age_s = (now_ns - memory.captioned_ns) / 1e9
        if age_s >= self._config.min_interval_s and self._changed(memory):
            return Trigger.CHANGE
        return Trigger.REFRESH if age_s >= self._config.refresh_s else None

    def _changed(self, memory: _Memory) -> bool:
        x0, y0, x1, y1 = memory.box_xyxy_px
        u0, v0, u1, v1 = memory.track.box_xyxy_px
        shift_px = math.hypot(u0 + u1 - x0 - x1, v0 + v1 - y0 - y1) / 2
        if shift_px > self._config.change_shift * math.hypot(x1 - x0, y1 - y0):
            return True
        ratio = _area(memory.track) / max(1, memory.area_px)
        return max(ratio, 1 / max(ratio, 1e-9)) > self._config.change_area_ratio

    def _request(self, memory: _Memory, tracks: TrackSet, now_ns: int) -> RegionRequest:
        assert memory.wish is not None  # `_waiting` yields only those
        assert memory.track.mask is not None
        memory.rev += 1
        request = RegionRequest(
            request_id=next(self._ids),
            stream=tracks.stream,
            rid=memory.track.rid,
            rev=memory.rev,
            frame_seq=tracks.frame_seq,
            mask=memory.track.mask,
            box_xyxy_px=memory.track.box_xyxy_px,
            trigger=memory.wish,
            deadline_ns=now_ns + int(self._config.deadline_s * 1e9),
            style=self._style,
            label=memory.track.label,
        )
        memory.in_flight, memory.wish = request.request_id, None
        memory.asked_box, memory.asked_area = memory.track.box_xyxy_px, _area(memory.track)
        return request


def _area(track: Track) -> int:
    return int(np.count_nonzero(track.mask)) if track.mask is not None else 0
