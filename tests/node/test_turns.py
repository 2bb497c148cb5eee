"""Fairness between streams and direct requests, deadlines, and waiting after failures."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.test_scheduler import S, scheduler, track, tracks
from ureca.datatypes import TrackSet, Trigger
from ureca.node.scheduling.region_state import OVERDUE, RANK
from ureca.node.scheduling.scheduler import Scheduler
from ureca.node.scheduling.stream_arbiter import ASKS, Turns
from ureca.protocol.region_requests import PolicyPatch

CHANGE, NEW = (RANK[Trigger.CHANGE], 5 * S), (RANK[Trigger.NEW], 9 * S)


def serve(
    turns: Turns, priorities: dict[str, tuple[int, int] | None], *, asked: bool = False
) -> str:
    turn = turns.next(priorities, asked=asked)
    assert turn is not None
    turns.served(turn)
    return turn


def test_rank_goes_before_turns_and_turns_before_deadlines() -> None:
    turns = Turns()
    assert serve(turns, {"a": CHANGE, "b": NEW}) == "b"
    early = (CHANGE[0], 1)
    assert [serve(turns, {"a": early, "b": CHANGE}) for _ in range(4)] == ["a", "b", "a", "b"]
    assert serve(turns, {"a": NEW, "b": (OVERDUE, 1), "c": None}) == "b"
    assert turns.next({"a": None}, asked=False) is None


def test_direct_requests_alternate_with_streams() -> None:
    turns = Turns()
    both = {"a": CHANGE, "b": CHANGE}
    told = [serve(turns, both, asked=True) for _ in range(6)]
    assert told == [ASKS, "a", ASKS, "b", ASKS, "a"]
    assert serve(turns, {"a": None}, asked=True) == ASKS


def test_a_pause_leaves_only_direct_requests() -> None:
    turns = Turns()
    turns.halt = "paused"
    assert turns.next({"a": NEW}, asked=False) is None
    assert [serve(turns, {"a": NEW}, asked=True) for _ in range(2)] == [ASKS, ASKS]


def wanting(regions: int, second: int, plan: Scheduler) -> TrackSet:
    """Regions that jump to and fro, so that each always wants a CHANGE."""
    box = (0, 0, 40, 40) if second % 2 else (90, 90, 130, 130)
    here = tracks(*(track(str(n), box=box) for n in range(regions)), seq=second)
    plan.observe(here, now_ns=second * S)
    return here


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    room=st.integers(1, 4),
    interval_s=st.sampled_from([1, 4, 1000]),
)
def test_a_crowded_stream_takes_no_batches_from_the_others(
    sizes: list[int], room: int, interval_s: int
) -> None:
    """One batch per second for everybody: after all were new, each stream gets an equal share."""
    plans = {str(n): scheduler(refresh_s=interval_s, min_interval_s=0.5) for n in range(len(sizes))}
    turns, served = Turns(), dict.fromkeys(plans, 0)
    begun = sum(-(-size // room) for size in sizes)
    for second in range(begun + 20 * len(plans)):
        now_ns = second * S
        here = {}
        for (name, plan), size in zip(plans.items(), sizes, strict=True):
            here[name] = wanting(size, second, plan)
        turn = serve(turns, {name: plan.priority(now_ns=now_ns) for name, plan in plans.items()})
        for request in plans[turn].pick(here[turn], room=room, now_ns=now_ns):
            plans[turn].ended(request, has_caption=True, now_ns=now_ns)
        served[turn] += second >= begun
    # A region past its deadline goes first. So a stream gets its share, or fewer batches because
    # all of its regions are captioned once per interval and round of the streams.
    seconds = 20 * len(plans)
    for batches, size in zip(served.values(), sizes, strict=True):
        in_time = -(-size // room) * seconds // (interval_s + len(plans))
        assert batches >= min(20 - 2 * begun, in_time)
    if interval_s == 1000:
        assert max(served.values()) - min(served.values()) <= 2


def test_of_one_rank_the_earliest_deadline_goes_first() -> None:
    plan = scheduler(refresh_s=100)
    plan._policies.set("hasty", PolicyPatch(min_interval_ms=0, max_interval_ms=2000))
    plan.observe(tracks(track("calm")), now_ns=0)
    here = tracks(track("calm"), track("hasty"))
    plan.observe(here, now_ns=S)
    assert [r.rid for r in plan.pick(here, room=1, now_ns=S)] == ["hasty"]


@pytest.mark.parametrize("interval_s", [0.5, 1.0])
def test_each_failure_in_a_row_doubles_the_wait_up_to_the_interval(interval_s: float) -> None:
    plan, here = scheduler(refresh_s=5, min_interval_s=interval_s), tracks(track("a"))
    tried = []
    for tick in range(400):
        now_ns = tick * S // 10
        plan.observe(here, now_ns=now_ns)
        for request in plan.pick(here, room=1, now_ns=now_ns):
            plan.ended(request, has_caption=False, now_ns=now_ns)
            tried.append(now_ns / S)
    waits = [round(b - a, 1) for a, b in itertools.pairwise(tried)]
    assert waits[:3] == [interval_s, 2 * interval_s, 4 * interval_s]
    assert set(waits[4:]) == {5.0}
