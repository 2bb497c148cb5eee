"""The last values of every live region, for pages that join late."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ureca.protocol.events import (
    AnyEvent,
    CaptionFinal,
    CaptionSame,
    Heartbeat,
    RegionEvent,
    TrackEnd,
    TrackEvent,
)

_Key = tuple[str, str]


class Board:
    """Pure: events in, events out. Bounded by `max_regions`; the oldest give way."""

    def __init__(self, max_regions: int = 1024) -> None:
        self._max_regions = max_regions
        self._tracks: dict[_Key, AnyEvent] = {}
        self._captions: dict[_Key, CaptionFinal] = {}
        self._beat: Heartbeat | None = None

    def clear(self) -> None:
        """Forget everything: another node speaks now."""
        self._tracks.clear()
        self._captions.clear()
        self._beat = None

    def replace(self, events: Iterable[AnyEvent]) -> None:
        """A snapshot: what it does not hold is no more."""
        beat = self._beat
        self.clear()
        self._beat = beat
        for event in events:
            self.apply(event)

    def apply(self, event: AnyEvent) -> None:
        """Take note of one event."""
        if isinstance(event, Heartbeat):
            self._beat = event
        if not isinstance(event, RegionEvent):
            return
        key = (event.stream, event.rid)
        if isinstance(event, TrackEnd):
            self._tracks.pop(key, None)
            self._captions.pop(key, None)
        elif isinstance(event, TrackEvent):
            self._make_room(key)
            self._tracks[key] = event
        elif isinstance(event, CaptionFinal):
            self._captions[key] = event
            self._bound()
        elif isinstance(event, CaptionSame):
            self._renew(key, event)

    def _renew(self, key: _Key, event: CaptionSame) -> None:
        if key in self._captions:
            self._captions[key] = msgspec.structs.replace(
                self._captions[key], cap_ns_last=event.cap_ns_last, ttl_ms=event.ttl_ms
            )

    def _make_room(self, key: _Key) -> None:
        if key not in self._tracks and len(self._tracks) >= self._max_regions:
            oldest = next(iter(self._tracks))
            del self._tracks[oldest]
            self._captions.pop(oldest, None)

    def _bound(self) -> None:
        while len(self._captions) > self._max_regions:
            del self._captions[next(iter(self._captions))]

    def events(self) -> list[AnyEvent]:
        """The heartbeat, then per region its track event and its caption."""
        found: list[AnyEvent] = [] if self._beat is None else [self._beat]
        for key, track in self._tracks.items():
            found.append(track)
            if key in self._captions:
                found.append(self._captions[key])
        return found
