"""Checks that every frame and request ends in exactly one counted way.

For tests of nodes and of robots, and for programs that watch heartbeats.

    assert not imbalances(heartbeat.counters, events)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ureca.protocol.event_table import TERMINALS, event_kind
from ureca.protocol.events import (
    AnyEvent,
    CaptionDelta,
    CaptionStart,
    CaptionTerminal,
    RegionEvent,
    TrackEnd,
    TrackNew,
)

_ENDS = {kind: kind.replace(".", "_") for kind in TERMINALS}


def imbalances(
    counters: Mapping[str, int], events: Iterable[AnyEvent] = (), *, closed: bool = True
) -> list[str]:
    """What does not add up, in words; empty if all counters add up.

    `counters` are those of a heartbeat, `stats` or `Balance.counters()`; `events` are all events
    that were published since the start, in order (leave them out when only a part was seen).
    `closed` expects that nothing is in flight any more. Results of direct requests go only to their
    clients: they are in the counters and not among the events.
    """
    listed = list(events)
    found = _check_counters(counters, closed=closed)
    if listed:
        found += _captions(listed, counters, closed=closed) + _regions(listed, closed=closed)
    return found


def _check_counters(counters: Mapping[str, int], *, closed: bool) -> list[str]:
    get = counters.get
    dropped = sum(count for name, count in counters.items() if name.startswith("drop_"))
    ended = sum(get(name, 0) for name in _ENDS.values())
    sums = {
        "frames": (get("frames_in", 0), get("frames_processed", 0) + dropped),
        "requests": (get("requests_in", 0), ended),
    }
    answered = sum(get(f"text_{end}", 0) for end in ("found", "absent", "abort", "error"))
    sums["texts"] = (get("texts_in", 0), answered)
    found = [f"{name} is {count}" for name, count in counters.items() if count < 0]
    for what, (came, went) in sums.items():
        open_now = get(f"{what}_in_flight", 0)
        if came != went + open_now:
            found.append(f"{came} {what} came in, {went} ended and {open_now} are in flight")
        if closed and open_now:
            found.append(f"{open_now} {what} are still in flight")
    return found


def _captions(events: list[AnyEvent], counters: Mapping[str, int], *, closed: bool) -> list[str]:
    found, started, ends = [], set(), dict[int, str]()
    for event in events:
        if isinstance(event, CaptionStart | CaptionDelta) and event.request_id in ends:
            found.append(f"request {event.request_id} goes on after its {ends[event.request_id]}")
        if isinstance(event, CaptionStart):
            started.add(event.request_id)
        if isinstance(event, CaptionTerminal):
            if event.request_id in ends:
                found.append(f"request {event.request_id} ended twice")
            ends[event.request_id] = event_kind(event)
    if closed and (left := started - ends.keys()):
        found.append(f"requests {sorted(left)} were started and never ended")
    for kind, count in Counter(ends.values()).items():
        if count > counters.get(_ENDS[kind], 0):
            found.append(f"{count} {kind} were published, {counters.get(_ENDS[kind], 0)} counted")
    return found


def _regions(events: list[AnyEvent], *, closed: bool) -> list[str]:
    found = []
    live, gone = set[tuple[str, str]](), set[tuple[str, str]]()
    for event in events:
        if not isinstance(event, RegionEvent):
            continue
        key = (event.stream, event.rid)
        if isinstance(event, TrackNew) and key in live | gone:
            found.append(f"region {event.rid} began twice")
        if key in gone and not isinstance(event, CaptionTerminal):
            found.append(f"region {event.rid} goes on after its end: {event_kind(event)}")
        live |= {key} if isinstance(event, TrackNew) else set()
        gone |= {key} if isinstance(event, TrackEnd) else set()
    if closed and (left := live - gone):
        found.append(f"regions {sorted(rid for _, rid in left)} never ended")
    return found
