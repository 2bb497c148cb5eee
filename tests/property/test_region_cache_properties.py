"""The region cache against any history of events: bounded, nothing that ended, the newest wins."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ureca.client.region_cache import RegionCache
from ureca.protocol import events as ev

BOX = (1, 2, 3, 4)
SESSION_IDS = (bytes(16), bytes([1] * 16))
KINDS = ("update", "lost", "recovered", "start", "delta", "final", "same", "abort", "end")
NAMES = ("red", "blue", "green")
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(NAMES)), max_size=40)


def track(kind, rid, event_seq, session_id=SESSION_IDS[0], **more):
    return kind(
        stream="cam0",
        rid=rid,
        seq=event_seq,
        captured_ns=event_seq,
        box=BOX,
        event_seq=event_seq,
        session_id=session_id,
        **more,
    )


def final(rid, event_seq, rev=1, session_id=SESSION_IDS[0]):
    return ev.CaptionFinal(
        stream="cam0",
        rid=rid,
        rev=rev,
        request_id=event_seq,
        text=f"{rid} {rev}",
        status="ok",
        n_tok=2,
        stop="eos",
        score=0.5,
        score_kind="token_geomean",
        src_seqs=(1,),
        captured_ns=event_seq,
        box=BOX,
        trigger="new",
        model="m",
        bundle_sha="0",
        precision="none",
        ttl_ms=100,
        session_id=session_id,
        event_seq=event_seq,
    )


@dataclass
class Node:
    """Events as a node sends them, and by other means than the cache what it would say last."""

    session_id: bytes = SESSION_IDS[0]
    events: list[ev.AnyEvent] = field(default_factory=list)
    rev: dict[str, int] = field(default_factory=dict)
    number: dict[str, int] = field(default_factory=dict)

    def do(self, kind: str, name: str) -> None:
        """One event, after that of its beginning. What begins again gets an id of its own."""
        rid = f"{name}-{self.number.get(name, 1)}"
        if rid not in self.rev:
            self.rev[rid] = 0
            self._track(ev.TrackNew, rid)
        if kind == "end":
            self._track(ev.TrackEnd, rid, reason="removed")
            self.number[name] = self.number.get(name, 1) + 1
        else:
            self._about(kind, rid)

    def _about(self, kind: str, rid: str) -> None:
        if kind == "update":
            self._track(ev.TrackUpdate, rid)
        elif kind == "lost":
            self._track(ev.TrackLost, rid, reason="drift")
        elif kind == "recovered":
            self._track(ev.TrackRecovered, rid)
        elif kind == "final":
            self.rev[rid] += 1
            self.events.append(final(rid, self._next, self.rev[rid], self.session_id))
        elif kind == "start":
            self._caption(ev.CaptionStart, rid, trigger="new", seq=1, captured_ns=1)
        elif kind == "delta":
            self._caption(ev.CaptionDelta, rid, offset=0, text="a")
        elif kind == "abort":
            self._caption(ev.CaptionAbort, rid, reason="late")
        elif kind == "same" and self.rev[rid]:
            self._caption(
                ev.CaptionSame, rid, same_rev=self.rev[rid], captured_ns=self._next, ttl_ms=7
            )

    @property
    def _next(self) -> int:
        return len(self.events) + 1

    def _track(self, kind: type, rid: str, **more: object) -> None:
        self.events.append(track(kind, rid, self._next, self.session_id, **more))

    def _caption(self, kind: type, rid: str, **more: object) -> None:
        common = {
            "stream": "cam0",
            "rid": rid,
            "request_id": self._next,
            "session_id": self.session_id,
        }
        self.events.append(kind(event_seq=self._next, **common, **more))

    def last(self, upto: int | None = None) -> dict[str, tuple[object, ...]]:
        """Per live region its newest track event, the text and the time of its caption."""
        events = self.events[:upto]
        gone = {e.rid for e in events if isinstance(e, ev.TrackEnd)}
        found = {}
        for rid in {e.rid for e in events} - gone:
            mine = [e for e in events if e.rid == rid]
            tracks = [e for e in mine if isinstance(e, ev.TrackEvent)]
            said = [e for e in mine if isinstance(e, ev.CaptionFinal)]
            renewed = [
                e.captured_ns
                for e in mine
                if isinstance(e, ev.CaptionSame) and said and e.same_rev == said[-1].rev
            ]
            text = said[-1].text if said else None
            at_ns = (renewed or [said[-1].captured_ns])[-1] if said else None
            found[rid] = (tracks[-1], text, at_ns)
        return found


def node_of(steps: list[tuple[str, str]], session_id: bytes = SESSION_IDS[0]) -> Node:
    node = Node(session_id)
    for kind, place in steps:
        node.do(kind, place)
    return node


def held(cache: RegionCache) -> dict[str, tuple[object, ...]]:
    return {
        region.rid: (
            region.track,
            region.caption and region.caption.text,
            region.caption and region.caption.captured_ns,
        )
        for region in cache
    }


def filled(events: list[ev.AnyEvent], cache: RegionCache | None = None) -> RegionCache:
    cache = RegionCache() if cache is None else cache
    for event in events:
        cache.apply(event)
    return cache


@given(STEPS)
def test_events_in_order_leave_the_last_values(steps):
    node = node_of(steps)
    cache = filled(node.events)
    assert held(cache) == node.last()
    assert len(cache.events()) == sum(1 + (text is not None) for _, text, _ in node.last().values())


@given(STEPS, st.data(), st.integers(1, 4))
def test_the_cache_is_bounded_whatever_comes_in_whatever_order(steps, data, limit):
    events = data.draw(st.permutations(node_of(steps).events))
    cache = RegionCache(limit)
    for event in events:
        cache.apply(event)
        assert len(cache) <= limit
        assert len(cache._ended) <= limit


@given(STEPS, st.data())
def test_what_ended_is_never_shown_whatever_comes_late(steps, data):
    node = node_of(steps)
    cache, ended = RegionCache(), set()
    for event in data.draw(st.permutations(node.events + node.events)):
        cache.apply(event)
        if isinstance(event, ev.TrackEnd):
            ended.add(event.rid)
        assert not ended & {e.rid for e in cache.events()}
        assert not any(cache.get("cam0", rid) for rid in ended)
    assert {region.rid for region in cache} <= node.last().keys()


@given(STEPS, st.data())
def test_the_newest_wins_in_any_order(steps, data):
    node = node_of(steps)
    expected = node.last()
    cache = filled(data.draw(st.permutations(node.events)))
    for rid, (tracked, text, _) in held(cache).items():
        assert (tracked, text) == expected[rid][:2]


@given(STEPS, st.data())
def test_a_snapshot_brings_back_what_was_missed(steps, data):
    """Any events were missed; then a snapshot is asked for, and comes before or after others."""
    node = node_of(steps)
    count = len(node.events)
    asked, taken, came = sorted(data.draw(st.tuples(*[st.integers(0, count)] * 3)))
    if data.draw(st.booleans()):
        taken, came = came, taken
    missed = data.draw(st.sets(st.integers(0, count)))
    heard = [event for place, event in enumerate(node.events[:asked]) if place not in missed]
    cache = filled(heard)
    mark = cache.mark
    filled(node.events[asked:came], cache)
    cache.apply_snapshot(filled(node.events[:taken]).events(), asked_at=mark)
    filled(node.events[came:], cache)
    found, expected = held(cache), node.last()
    assert {rid: row[:2] for rid, row in found.items()} == {
        rid: row[:2] for rid, row in expected.items()
    }
    for rid, (*_, at_ns) in found.items():  # a renewal may be lost; never is one made up
        assert at_ns is None or at_ns <= expected[rid][2]


@given(STEPS, STEPS, st.data())
def test_another_session_begins_with_an_empty_cache(steps, more, data):
    old, new = node_of(steps), node_of(more, SESSION_IDS[1])
    late = data.draw(st.lists(st.sampled_from(old.events), max_size=5)) if old.events else []
    cache = filled(old.events)
    for event in new.events:
        cache.apply(event)
        filled(late, cache)
    if new.events:
        assert held(cache) == new.last()


def test_a_late_renewal_does_not_renew_another_caption():
    cache = filled([track(ev.TrackNew, "a", 1), final("a", 2, rev=1), final("a", 4, rev=2)])
    renewal = ev.CaptionSame(
        stream="cam0",
        rid="a",
        request_id=9,
        same_rev=1,
        captured_ns=99,
        ttl_ms=7,
        session_id=SESSION_IDS[0],
    )
    for event_seq in (3, 5):
        cache.apply(msgspec.structs.replace(renewal, event_seq=event_seq))
    assert cache.get("cam0", "a").captured_ns == 4
    cache.apply(msgspec.structs.replace(renewal, event_seq=6, same_rev=2))
    assert (cache.get("cam0", "a").captured_ns, cache.get("cam0", "a").ttl_ms) == (99, 7)


def test_a_snapshot_from_before_a_renewal_does_not_undo_it():
    before = filled([track(ev.TrackNew, "a", 1), final("a", 2)]).events()
    cache = filled(before)
    renewal = ev.CaptionSame(
        stream="cam0",
        rid="a",
        request_id=3,
        same_rev=1,
        captured_ns=99,
        ttl_ms=7,
        session_id=SESSION_IDS[0],
    )
    cache.apply(msgspec.structs.replace(renewal, event_seq=3))
    cache.apply_snapshot(before, asked_at=cache.mark)
    assert cache.get("cam0", "a").captured_ns == 99


def test_the_region_that_began_first_gives_way():
    cache = RegionCache(max_regions=8)
    for number in range(100):
        cache.apply(track(ev.TrackNew, f"r{number}", 2 * number + 1))
        cache.apply(final(f"r{number}", 2 * number + 2))
    assert [region.rid for region in cache] == [f"r{number}" for number in range(92, 100)]
    assert len(cache.events()) == 16
