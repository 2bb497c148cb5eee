"""Converts track sets to events: new, lost, recovered and ended tracks at once, updates at a
limited rate.
"""

from __future__ import annotations

from typing import Any

from ureca.datatypes import Track, TrackSet, TrackState
from ureca.protocol.events import (
    AnyEvent,
    TrackEnd,
    TrackLost,
    TrackNew,
    TrackRecovered,
    TrackUpdate,
)
from ureca.protocol.rle import encode
from ureca.protocol.wire import to_wire_rle


class TrackReporter:
    """Stores what was last published about each region of one stream."""

    def __init__(self, *, update_hz: float) -> None:
        self._interval_ns = int(1e9 / update_hz) if update_hz > 0 else 0
        self._said_ns: dict[str, int] = {}
        self._lost: set[str] = set()

    def events(self, tracks: TrackSet, *, clock: str, now_ns: int) -> list[AnyEvent]:
        """The events that `tracks` is worth, in the tracks' order."""
        found = [self._event(track, tracks, clock, now_ns) for track in tracks.tracks]
        return [event for event in found if event is not None]

    def _event(self, track: Track, tracks: TrackSet, clock: str, now_ns: int) -> AnyEvent | None:
        common = _common(track, tracks, clock)
        was_lost = track.rid in self._lost
        if track.state is TrackState.ENDED:
            self._forget(track.rid)
            return TrackEnd(**common, reason=track.reason)
        if track.state is TrackState.LOST:
            self._lost.add(track.rid)
            return None if was_lost else TrackLost(**common, reason=track.reason)
        if track.state is TrackState.ALIVE and not self._is_due(track.rid, now_ns):
            return None
        self._lost.discard(track.rid)
        self._said_ns[track.rid] = now_ns
        if track.state is TrackState.NEW:
            mask = to_wire_rle(encode(track.mask)) if track.mask is not None else None
            return TrackNew(**common, mask=mask)
        if track.state is TrackState.RECOVERED:
            return TrackRecovered(**common)
        return TrackUpdate(**common, age_frames=track.age_frames)

    def _is_due(self, rid: str, now_ns: int) -> bool:
        said_ns = self._said_ns.get(rid)
        return said_ns is None or now_ns - said_ns >= self._interval_ns

    def _forget(self, rid: str) -> None:
        self._said_ns.pop(rid, None)
        self._lost.discard(rid)


def _common(track: Track, tracks: TrackSet, clock: str) -> dict[str, Any]:
    """Fields that every track event has; `Any` because they are of different types."""
    return {
        "stream": tracks.stream,
        "rid": track.rid,
        "parent": track.parent,
        "seq": tracks.frame_seq,
        "captured_ns": tracks.captured_ns,
        "clk": clock,
        "box": track.box_xyxy_px,
        "label": track.label,
    }
