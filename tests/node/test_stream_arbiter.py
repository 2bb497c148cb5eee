"""Fairness between streams and direct requests, deadlines, and waiting after failures."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.test_scheduler import S, scheduler, track, tracks
from ureca.datatypes import TrackSet, Trigger
from ureca.node.scheduling.region_state import OVERDUE, RANK
from ureca.node.scheduling.scheduler import Scheduler
from ureca.node.scheduling.stream_arbiter import DIRECT, TEXTS, StreamArbiter
from ureca.protocol.region_requests import PolicyPatch

CHANGE, NEW = (RANK[Trigger.CHANGE], 5 * S), (RANK[Trigger.NEW], 9 * S)


def serve(
    arbiter: StreamArbiter,
    priorities: dict[str, tuple[int, int] | None],
    *,
    has_requests: bool = False,
) -> str:
    chosen = arbiter.choose(priorities, has_requests=has_requests)
    assert chosen is not None
    arbiter.mark_served(chosen)
    return chosen


def test_rank_goes_before_fairness_and_fairness_before_deadlines() -> None:
    arbiter = StreamArbiter()
    assert serve(arbiter, {"a": CHANGE, "b": NEW}) == "b"
    early = (CHANGE[0], 1)
    assert [serve(arbiter, {"a": early, "b": CHANGE}) for _ in range(4)] == ["a", "b", "a", "b"]
    assert serve(arbiter, {"a": NEW, "b": (OVERDUE, 1), "c": None}) == "b"
    assert arbiter.choose({"a": None}, has_requests=False) is None


def test_direct_requests_alternate_with_streams() -> None:
    arbiter = StreamArbiter()
    both = {"a": CHANGE, "b": CHANGE}
    chosen = [serve(arbiter, both, has_requests=True) for _ in range(6)]
    assert chosen == [DIRECT, "a", DIRECT, "b", DIRECT, "a"]
    assert serve(arbiter, {"a": None}, has_requests=True) == DIRECT


def test_texts_direct_requests_and_streams_take_turns() -> None:
    arbiter, both = StreamArbiter(), {"a": CHANGE, "b": CHANGE}

    def told(count: int, **waiting: bool) -> list[str]:
        found = []
        for _ in range(count):
            turn = arbiter.choose(both, **waiting)
            assert turn is not None
            arbiter.mark_served(turn)
            found.append(turn)
        return found

    seen = Counter(told(60, has_requests=True, has_texts=True))
    assert min(seen.values()) >= 10
    assert seen[DIRECT] == seen[TEXTS]  # neither goes before the other
    assert set(told(4, has_requests=False, has_texts=True)) == {TEXTS, "a", "b"}
    arbiter.run_mode = "paused"
    assert told(2, has_requests=False, has_texts=True) == [TEXTS, TEXTS]


def test_a_pause_leaves_only_direct_requests() -> None:
    arbiter = StreamArbiter()
    arbiter.run_mode = "paused"
    assert arbiter.choose({"a": NEW}, has_requests=False) is None
    assert [serve(arbiter, {"a": NEW}, has_requests=True) for _ in range(2)] == [DIRECT, DIRECT]


def wanting(regions: int, second: int, plan: Scheduler) -> TrackSet:
    """Regions that jump to and fro, so that each always wants a CHANGE."""
    box = (0, 0, 40, 40) if second % 2 else (90, 90, 130, 130)
    here = tracks(*(track(str(n), box=box) for n in range(regions)), seq=second)
    plan.observe(here, now_ns=second * S)
    return here


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    free_slots=st.integers(1, 4),
    interval_s=st.sampled_from([1, 4, 1000]),
)
def test_a_crowded_stream_takes_no_batches_from_the_others(
    sizes: list[int], free_slots: int, interval_s: int
) -> None:
    """One batch per second for everybody: after all were new, each stream gets an equal share."""
    plans = {str(n): scheduler(refresh_s=interval_s, min_interval_s=0.5) for n in range(len(sizes))}
    arbiter, served = StreamArbiter(), dict.fromkeys(plans, 0)
    begun = sum(-(-size // free_slots) for size in sizes)
    for second in range(begun + 20 * len(plans)):
        now_ns = second * S
        here = {}
        for (name, plan), size in zip(plans.items(), sizes, strict=True):
            here[name] = wanting(size, second, plan)
        turn = serve(arbiter, {name: plan.priority(now_ns=now_ns) for name, plan in plans.items()})
        for request in plans[turn].pick(here[turn], free_slots=free_slots, now_ns=now_ns):
            plans[turn].ended(request, has_caption=True, now_ns=now_ns)
        served[turn] += second >= begun
    # A region past its deadline goes first. So a stream gets its share, or fewer batches because
    # all of its regions are captioned once per interval and round of the streams.
    seconds = 20 * len(plans)
    for batches, size in zip(served.values(), sizes, strict=True):
        in_time = -(-size // free_slots) * seconds // (interval_s + len(plans))
        assert batches >= min(20 - 2 * begun, in_time)
    if interval_s == 1000:
        assert max(served.values()) - min(served.values()) <= 2


def test_of_one_rank_the_earliest_deadline_goes_first() -> None:
    plan = scheduler(refresh_s=100)
    plan._policies.set("hasty", PolicyPatch(min_interval_ms=0, max_interval_ms=2000))
    plan.observe(tracks(track("calm")), now_ns=0)
    here = tracks(track("calm"), track("hasty"))
    plan.observe(here, now_ns=S)
    assert [r.rid for r in plan.pick(here, free_slots=1, now_ns=S)] == ["hasty"]


@pytest.mark.parametrize("interval_s", [0.5, 1.0])
def test_each_failure_in_a_row_doubles_the_wait_up_to_the_interval(interval_s: float) -> None:
    plan, here = scheduler(refresh_s=5, min_interval_s=interval_s), tracks(track("a"))
    tried = []
    for tick in range(400):
        now_ns = tick * S // 10
        plan.observe(here, now_ns=now_ns)
        for request in plan.pick(here, free_slots=1, now_ns=now_ns):
            plan.ended(request, has_caption=False, now_ns=now_ns)
            tried.append(now_ns / S)
    waits = [round(b - a, 1) for a, b in itertools.pairwise(tried)]
    assert waits[:3] == [interval_s, 2 * interval_s, 4 * interval_s]
    assert set(waits[4:]) == {5.0}
