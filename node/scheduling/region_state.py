"""The state of a region's captions, and the priority of the next one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ureca.datatypes import Track, Trigger
from ureca.node.scheduling.caption_policy import Policy
from ureca.node.scheduling.change_detection import AppearanceSnapshot

RANK = {
    Trigger.NEW: 0,
    Trigger.REQUEST: 1,
    Trigger.RECOVERED: 2,
    Trigger.CHANGE: 3,
    Trigger.REFRESH: 4,
}
OVERDUE = -1
TICKS = 4
"""Intervals are counted in quarters of a common clock: see `has_passed`."""
Priority = tuple[int, int]
"""(rank of the trigger, or `OVERDUE`; deadline in ns): the smaller comes first."""


@dataclass(frozen=True, slots=True)
class CaptionedState:
    """A region at the time of the request for caption `rev`; `look` is None if there is no
    snapshot.
    """

    rev: int
    box_xyxy_px: tuple[int, int, int, int]
    area_px: int
    snapshot: AppearanceSnapshot | None = None


@dataclass(slots=True)
class RegionState:
    """Keeps one region's pending caption request and its last caption."""

    track: Track
    policy: Policy
    rev: int = 0
    captioned: CaptionedState | None = None
    written_ns: int = 0
    """When the caption was asked for, which is when its picture was the newest: one time for the
    whole batch."""
    renewed_ns: int = 0
    """When the caption was last known to hold: written, or found to be the same."""
    checked_ns: int = 0
    changed: AppearanceSnapshot | None = None
    asked: CaptionedState | None = None
    asked_ns: int = 0
    in_flight: int | None = None
    pending: Trigger | None = None
    since_ns: int = 0
    not_before_ns: int = 0
    failures: int = 0
    """The number of consecutive failed captions."""

    def wants(self, trigger: Trigger | None, now_ns: int) -> None:
        """Add a pending caption request. A promoted request keeps its time, so that a higher
        priority never makes it wait longer.
        """
        if trigger is None or self.in_flight is not None:
            return
        if self.pending is None:
            self.pending, self.since_ns = trigger, now_ns
        elif RANK[trigger] < RANK[self.pending]:
            self.pending = trigger

    def priority(self, now_ns: int) -> Priority:
        """The priority of the request: by rank, then by deadline; overdue requests are first."""
        assert self.pending is not None  # only pending requests have a priority
        deadline_ns = self.since_ns + self.policy.max_interval_ns
        return (OVERDUE if now_ns > deadline_ns else RANK[self.pending], deadline_ns)

    def is_old(self, now_ns: int) -> bool:
        """Whether the caption must be checked."""
        return has_passed(self.policy.max_interval_ns, self.renewed_ns, now_ns)

    def may_look(self, now_ns: int) -> bool:
        """Whether enough time has passed since the last check."""
        return has_passed(self.policy.min_interval_ns, self.checked_ns, now_ns)

    def may_rewrite(self, now_ns: int) -> bool:
        """Whether the caption is old enough to be generated again."""
        return has_passed(self.policy.min_interval_ns, self.written_ns, now_ns)

    def back_off(self, now_ns: int) -> None:
        """After a failed caption, delay the next try. The delay doubles with each consecutive
        failure, up to `max_interval_ms`.
        """
        policy = self.policy
        wait_ns = policy.min_interval_ns << min(self.failures, 16)
        self.failures += 1
        self.not_before_ns = now_ns + min(wait_ns, policy.max_interval_ns)


def has_passed(interval_ns: int, since_ns: int, now_ns: int) -> bool:
    """Whether `interval_ns` have passed, up to a quarter of it early: intervals end at the ticks of
    a clock that all regions share. So regions are due together at any frame rate, and share a batch
    and its image encoding.
    """
    tick_ns = max(1, interval_ns // TICKS)
    return now_ns // tick_ns - since_ns // tick_ns >= interval_ns // tick_ns


def area_px(track: Track) -> int:
    """Pixels of a track's mask; 0 where it is not seen."""
    return int(np.count_nonzero(track.mask)) if track.mask is not None else 0
