"""The newest track event and caption of every region that has not ended, at most so many.

The publisher repeats them to late joiners; the viewer, `ureca watch`, the bridges and videos show
them. All of them use this cache, so that there is one rule for what it holds:

- A region begins with a track event or with a caption. When there is no room, the region that
  began first is forgotten.
- A region ends with `TrackEnd`. Ids are not used again within a `session_id`, so whatever comes
  about an ended region later is late, and is ignored.
- The event with the higher `event_seq` wins. A snapshot and the stream of events may overlap.
- A new `session_id` is another node: the cache starts empty. Events of a node that went are
  ignored.

Pure: events in, regions out. Events without stamps (`session_id` empty, `event_seq` 0) count in
their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from ureca.protocol.events import (
    AnyEvent,
    CaptionAbort,
    CaptionDelta,
    CaptionError,
    CaptionFinal,
    CaptionSame,
    CaptionStart,
    RegionEvent,
    TrackEnd,
    TrackEvent,
    TrackLost,
    TrackNew,
    TrackRecovered,
    TrackUpdate,
)

Key = tuple[str, str]
"""A stream and a region."""

Mark = tuple[bytes, int]
"""A moment in a node's events: its `session_id`, and the newest `event_seq` until then."""

_MAX_PAST_SESSIONS = 16


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """One caption: about the frame captured at `captured_ns` on `clk`; it holds for `ttl_ms`."""

    text: str
    rev: int
    captured_ns: int
    clk: str
    ttl_ms: int
    score: float | None
    trigger: str
    confidence: float | None = None
    """Calibrated probability, 0..1, that it is right; None where the bundle has no weights."""
    unsure: bool = False
    """`confidence` is lower than the `min_confidence` of the region's policy."""

    def holds(self, now_ns: int) -> bool:
        """Whether it is valid at `now_ns` of `clk`."""
        return now_ns < self.captured_ns + self.ttl_ms * 1_000_000


@dataclass(slots=True)
class CachedRegion:
    """What is known of one region; only the cache changes it."""

    stream: str
    rid: str
    track: TrackNew | TrackUpdate | TrackLost | TrackRecovered | None = None
    caption: CaptionFinal | None = None
    """The newest caption. A renewal moves its `captured_ns`, `ttl_ms` and `event_seq`."""
    draft: str | None = None
    """The text so far of the caption that is being written; None when none is."""
    trigger: str = ""
    """Why the newest caption was written, or is being written."""
    event_seq: int = 0
    """Of the newest event about the region."""

    def apply(self, event: AnyEvent) -> None:
        """Take in an event about this region, unless a newer one of its kind is known."""
        if isinstance(event, TrackEvent):
            if not isinstance(event, TrackEnd) and event.event_seq >= _event_seq(self.track):
                self.track = event
        elif event.event_seq >= _event_seq(self.caption):
            self._apply_caption(event)
        self.event_seq = max(self.event_seq, event.event_seq)

    def _apply_caption(self, event: AnyEvent) -> None:
        if isinstance(event, CaptionStart):
            self.draft, self.trigger = "", event.trigger
        elif isinstance(event, CaptionDelta) and self.draft is not None:
            self.draft = self.draft[: event.offset] + event.text
        elif isinstance(event, CaptionFinal):
            self.draft, self.caption, self.trigger = None, event, event.trigger
        elif isinstance(event, CaptionAbort | CaptionError):
            self.draft = None
        elif isinstance(event, CaptionSame):
            self.draft = None
            if self.caption is not None and self.caption.rev == event.same_rev:
                self.caption = msgspec.structs.replace(
                    self.caption,
                    captured_ns=event.captured_ns,
                    ttl_ms=event.ttl_ms,
                    event_seq=event.event_seq,
                )


class RegionCache:
    """The regions that have not ended, in the order in which they began; apply all events to it.

    At most `max_regions` are held, and as many ids of regions that ended.
    """

    def __init__(self, max_regions: int = 4096) -> None:
        self._max = max_regions
        self._regions: dict[Key, CachedRegion] = {}
        self._ended: dict[Key, None] = {}
        self._session_id = b""
        self._past_session_ids: deque[bytes] = deque(maxlen=_MAX_PAST_SESSIONS)
        self._event_seq = 0

    def __len__(self) -> int:
        return len(self._regions)

    def __iter__(self) -> Iterator[CachedRegion]:
        return iter(self._regions.values())

    def apply(self, event: AnyEvent) -> None:
        """Take in one event; those that are about no region only move `mark`."""
        if not self._is_current(event):
            return
        self._event_seq = max(self._event_seq, event.event_seq)
        if not isinstance(event, RegionEvent):
            return
        key = (event.stream, event.rid)
        if isinstance(event, TrackEnd):
            self._end(key)
        elif key not in self._ended:
            region = self._regions.get(key)
            if region is None and isinstance(event, TrackEvent | CaptionFinal):
                region = self._begin(key)
            if region is not None:
                region.apply(event)

    @property
    def mark(self) -> Mark:
        """Now. Take it before you ask for a snapshot."""
        return self._session_id, self._event_seq

    def apply_snapshot(self, events: Iterable[AnyEvent], *, asked_at: Mark) -> None:
        """Take in the answer to a snapshot that was asked for at `asked_at`.

        A region that the snapshot leaves out has ended, unless it was heard of after `asked_at`.
        """
        listed: set[Key] = set()
        for event in events:
            self.apply(event)
            if isinstance(event, RegionEvent):
                listed.add((event.stream, event.rid))
        session_id, event_seq = asked_at
        if session_id != self._session_id:
            return
        for key, region in list(self._regions.items()):
            if key not in listed and region.event_seq <= event_seq:
                self._end(key)

    def get(self, stream: str, rid: str) -> CaptionRecord | None:
        """The newest caption of a region, whether it is still valid or not."""
        region = self._regions.get((stream, rid))
        return None if region is None or region.caption is None else _record(region.caption)

    def events(self) -> list[AnyEvent]:
        """Per region its newest track event and then its newest caption."""
        return [
            event
            for region in self
            for event in (region.track, region.caption)
            if event is not None
        ]

    def clear(self) -> None:
        """Forget all regions."""
        self._regions.clear()
        self._ended.clear()

    def _is_current(self, event: AnyEvent) -> bool:
        """Whether the event is of the newest node that was heard of."""
        if event.session_id != self._session_id:
            if event.session_id in self._past_session_ids:
                return False
            self._past_session_ids.append(self._session_id)
            self._session_id, self._event_seq = event.session_id, 0
            self.clear()
        return True

    def _begin(self, key: Key) -> CachedRegion:
        _make_room(self._regions, self._max)
        region = self._regions[key] = CachedRegion(*key)
        return region

    def _end(self, key: Key) -> None:
        self._regions.pop(key, None)
        if key not in self._ended:
            _make_room(self._ended, self._max)
            self._ended[key] = None


def _make_room(held: dict[Key, CachedRegion] | dict[Key, None], limit: int) -> None:
    """Forget the oldest so that there is room for one more."""
    while len(held) >= limit:
        del held[next(iter(held))]


def _event_seq(event: AnyEvent | None) -> int:
    return 0 if event is None else event.event_seq


def _record(event: CaptionFinal) -> CaptionRecord:
    return CaptionRecord(
        text=event.text,
        rev=event.rev,
        captured_ns=event.captured_ns,
        clk=event.clk,
        ttl_ms=event.ttl_ms,
        score=event.score,
        trigger=event.trigger,
        confidence=event.confidence,
        unsure=event.unsure,
    )
