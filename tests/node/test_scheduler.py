from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ureca.datatypes import Track, TrackSet, TrackState, Trigger
from ureca.node.config import CaptionConfig, SchedulerConfig
from ureca.node.scheduling.caption_policy import Policies, Policy
from ureca.node.scheduling.region_state import TICKS, has_passed
from ureca.node.scheduling.scheduler import Scheduler

MASK = np.ones((4, 4), np.bool_)
S = 1_000_000_000


def track(
    rid: str, state: TrackState = TrackState.ALIVE, box: tuple[int, int, int, int] = (0, 0, 40, 40)
) -> Track:
    visible = state not in (TrackState.LOST, TrackState.ENDED)
    return Track(rid, state, MASK if visible else None, box, 1, 0)


def tracks(*found: Track, seq: int = 0) -> TrackSet:
    return TrackSet("cam0", seq, 0, found)


def scheduler(**config: float) -> Scheduler:
    plan = SchedulerConfig(**config)  # type: ignore[arg-type]
    return Scheduler(
        plan, policies=Policies(Policy.of(plan, CaptionConfig())), ids=itertools.count(1)
    )


def test_new_regions_come_before_old_ones() -> None:
    plan = scheduler(refresh_s=5)
    plan.observe(tracks(track("old")), now_ns=0)
    (request,) = plan.pick(tracks(track("old")), free_slots=4, now_ns=0)
    plan.ended(request, has_caption=True, now_ns=0)
    now_ns = 6 * S
    both = tracks(track("old"), track("fresh"))
    plan.observe(both, now_ns=now_ns)
    picked = plan.pick(both, free_slots=4, now_ns=now_ns)
    assert [(r.rid, r.trigger) for r in picked] == [
        ("fresh", Trigger.NEW),
        ("old", Trigger.REFRESH),
    ]
    assert [r.rev for r in picked] == [1, 2]


def test_a_moved_or_found_region_is_captioned_again() -> None:
    plan = scheduler(refresh_s=100, min_interval_s=1)
    here = tracks(track("a"), track("b"))
    plan.observe(here, now_ns=0)
    for request in plan.pick(here, free_slots=4, now_ns=0):
        plan.ended(request, has_caption=True, now_ns=0)
    there = tracks(track("a", box=(60, 0, 100, 40)), track("b", TrackState.RECOVERED))
    plan.observe(there, now_ns=2 * S)
    triggers = {r.rid: r.trigger for r in plan.pick(there, free_slots=4, now_ns=2 * S)}
    assert triggers == {"a": Trigger.CHANGE, "b": Trigger.RECOVERED}


def test_requests_of_lost_and_ended_regions_are_aborted_with_a_reason() -> None:
    plan = scheduler()
    here = tracks(track("a"), track("b"))
    plan.observe(here, now_ns=0)
    ids = {r.rid: r.request_id for r in plan.pick(here, free_slots=4, now_ns=0)}
    gone = tracks(track("a", TrackState.LOST), track("b", TrackState.ENDED))
    aborts = plan.observe(gone, now_ns=1)
    assert {a.request_id: a.reason for a in aborts} == {
        ids["a"]: "track_lost",
        ids["b"]: "track_ended",
    }
    assert plan.pick(gone, free_slots=4, now_ns=2) == ()


def test_a_failed_region_waits_before_it_tries_again() -> None:
    plan, here = scheduler(min_interval_s=1), tracks(track("a"))
    plan.observe(here, now_ns=0)
    (request,) = plan.pick(here, free_slots=1, now_ns=0)
    plan.ended(request, has_caption=False, now_ns=0)
    plan.observe(here, now_ns=S // 2)
    assert plan.pick(here, free_slots=1, now_ns=S // 2) == ()
    plan.observe(here, now_ns=2 * S)
    assert len(plan.pick(here, free_slots=1, now_ns=2 * S)) == 1


@given(
    regions=st.integers(1, 12),
    free_slots=st.integers(1, 4),
    jumpy=st.sets(st.integers(0, 11), max_size=6),
)
def test_no_region_starves_however_lively_the_others_are(
    regions: int, free_slots: int, jumpy: set[int]
) -> None:
    """One batch per second; jumpy regions always want a CHANGE caption."""
    plan = scheduler(refresh_s=4, min_interval_s=0.5)
    captioned_s = dict.fromkeys(range(regions), 0)
    for second in range(60):
        found = [
            track(
                str(n), box=(0, 0, 40, 40) if n not in jumpy or second % 2 else (90, 90, 130, 130)
            )
            for n in range(regions)
        ]
        here = tracks(*found, seq=second)
        plan.observe(here, now_ns=second * S)
        picked = plan.pick(here, free_slots=free_slots, now_ns=second * S)
        assert len({r.rid for r in picked}) == len(picked) <= free_slots
        for request in picked:
            plan.ended(request, has_caption=True, now_ns=second * S)
            captioned_s[int(request.rid)] = second
        # A request is overdue after refresh_s and then waits for at most all others once.
        bound_s = 4 + 4 + 1 + -(-regions // free_slots) * 2
        assert all(second - last <= bound_s for last in captioned_s.values())
    assert plan.in_flight == 0


@given(
    interval_ns=st.integers(0, 10 * S),
    since_ns=st.integers(0, 100 * S),
    waited=st.floats(0, 1.5),
)
def test_intervals_end_at_most_a_quarter_early_and_never_late(
    interval_ns: int, since_ns: int, waited: float
) -> None:
    passed = has_passed(interval_ns, since_ns, since_ns + int(waited * interval_ns))
    early = waited < 0.75 and interval_ns >= TICKS
    assert passed <= (not early)
    assert passed >= (waited >= 1)


def captioned_at(plan: Scheduler, here: TrackSet, asked_ns: int, *ended_ns: int) -> None:
    """The rows of a batch end one after the other."""
    plan.observe(here, now_ns=asked_ns)
    for request, now_ns in zip(
        plan.pick(here, free_slots=8, now_ns=asked_ns), ended_ns, strict=True
    ):
        plan.ended(request, has_caption=True, now_ns=now_ns)


def test_a_batch_falls_due_together_however_differently_its_rows_ended() -> None:
    plan, here = scheduler(refresh_s=1, min_interval_s=0.2), tracks(track("a"), track("b"))
    captioned_at(plan, here, 100 * S, 100 * S + S // 50, 100 * S + S // 5)
    plan.observe(here, now_ns=101 * S - 1)
    assert plan.pick(here, free_slots=8, now_ns=101 * S - 1) == ()
    plan.observe(here, now_ns=101 * S)
    assert len(plan.pick(here, free_slots=8, now_ns=101 * S)) == 2


def test_regions_captioned_a_few_frames_apart_share_the_next_batch() -> None:
    plan = scheduler(refresh_s=1, min_interval_s=0.2)
    captioned_at(plan, tracks(track("a")), 100 * S + S // 30, 100 * S + S // 10)
    both = tracks(track("a"), track("b"))
    captioned_at(plan, both, 100 * S + S // 6, 100 * S + S // 5)
    batches = []
    for frame in range(6, 40):
        now_ns = 100 * S + frame * S // 30
        plan.observe(both, now_ns=now_ns)
        batches.append([r.rid for r in plan.pick(both, free_slots=8, now_ns=now_ns)])
    assert [sorted(batch) for batch in batches if batch] == [["a", "b"]]
