"""What is remembered of a region's captions, and how much it wants the next one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ureca.datatypes import Track, Trigger
from ureca.node.scheduling.caption_policy import Policy
from ureca.node.scheduling.change_detection import Look

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
Urgency = tuple[int, int]
"""(rank of the trigger, or `OVERDUE`; deadline in ns): the smaller the more urgent."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A region as it was when caption `rev` was asked for; `look` is None where none was taken."""

    rev: int
    box_xyxy_px: tuple[int, int, int, int]
    area_px: int
    look: Look | None = None


@dataclass(slots=True)
class Memory:
    """What is remembered about one region's captions."""

    track: Track
    policy: Policy
    rev: int = 0
    captioned: Seen | None = None
    written_ns: int = 0
    """When the caption was asked for, which is when its picture was the newest: one time for the
    whole batch."""
    renewed_ns: int = 0
    """When the caption was last known to hold: written, or found to be the same."""
    checked_ns: int = 0
    changed: Look | None = None
    asked: Seen | None = None
    asked_ns: int = 0
    in_flight: int | None = None
    wish: Trigger | None = None
    since_ns: int = 0
    not_before_ns: int = 0
    failures: int = 0
    """How many captions in a row did not come."""

    def wants(self, trigger: Trigger | None, now_ns: int) -> None:
        """Wish for a caption. A promoted wish keeps its place in time: it must not wait longer for
        being more urgent.
        """
        if trigger is None or self.in_flight is not None:
            return
        if self.wish is None:
            self.wish, self.since_ns = trigger, now_ns
        elif RANK[trigger] < RANK[self.wish]:
            self.wish = trigger

    def urgency(self, now_ns: int) -> Urgency:
        """How urgent the wish is: by rank and then by deadline, past its deadline before all."""
        assert self.wish is not None  # only wishes have an urgency
        deadline_ns = self.since_ns + self.policy.max_interval_ns
        return (OVERDUE if now_ns > deadline_ns else RANK[self.wish], deadline_ns)

    def is_old(self, now_ns: int) -> bool:
        """Whether the caption must be looked at again."""
        return has_passed(self.policy.max_interval_ns, self.renewed_ns, now_ns)

    def may_look(self, now_ns: int) -> bool:
        """Whether it is long enough since it was last looked at."""
        return has_passed(self.policy.min_interval_ns, self.checked_ns, now_ns)

    def may_rewrite(self, now_ns: int) -> bool:
        """Whether its caption was written long enough ago to be written anew."""
        return has_passed(self.policy.min_interval_ns, self.written_ns, now_ns)

    def back_off(self, now_ns: int) -> None:
        """No caption came: wait before the next try, twice as long for each failure in a row, for
        at most `max_interval_ms`.
        """
        policy = self.policy
        wait_ns = policy.min_interval_ns << min(self.failures, 16)
        self.failures += 1
        self.not_before_ns = now_ns + min(wait_ns, policy.max_interval_ns)


def has_passed(interval_ns: int, since_ns: int, now_ns: int) -> bool:
    """Whether `interval_ns` have passed, up to a quarter of it too early: it ends at the ticks of a
    clock that all regions share. They fall due together, whatever the frame rate and whenever each
    was written, and so share a batch and its one look at the picture.
    """
    tick_ns = max(1, interval_ns // TICKS)
    return now_ns // tick_ns - since_ns // tick_ns >= interval_ns // tick_ns


def area_px(track: Track) -> int:
    """Pixels of a track's mask; 0 where it is not seen."""
    return int(np.count_nonzero(track.mask)) if track.mask is not None else 0
