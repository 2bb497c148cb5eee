"""How one region is captioned: the node's configuration, overridden per stream and per region."""

from __future__ import annotations

from dataclasses import dataclass

from ureca.datatypes import Style, Trigger
from ureca.node.config import CaptionConfig, SchedulerConfig

TRIGGERS = frozenset({Trigger.NEW, Trigger.RECOVERED, Trigger.CHANGE, Trigger.REFRESH})
"""What may start a caption by itself; direct requests always may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a region is captioned, for how long that counts, and what is said."""

    ttl_ms: int
    """How long a consumer may act on a caption."""
    min_interval_ms: int
    """CHANGE does not caption anew sooner than this, and is not looked for more often."""
    max_interval_ms: int
    """After this a caption is looked at again: renewed when it still holds, else written anew."""
    triggers: frozenset[Trigger]
    max_new_tokens: int
    style: Style

    @classmethod
    def of(cls, scheduler: SchedulerConfig, caption: CaptionConfig) -> Policy:
        """The policy of regions for which none was set."""
        return cls(
            ttl_ms=caption.ttl_ms,
            min_interval_ms=round(scheduler.min_interval_s * 1e3),
            max_interval_ms=round(scheduler.refresh_s * 1e3),
            triggers=TRIGGERS,
            max_new_tokens=caption.max_new_tokens,
            style=caption.style,
        )

    @property
    def min_interval_ns(self) -> int:
        """`min_interval_ms` in nanoseconds."""
        return self.min_interval_ms * 1_000_000

    @property
    def max_interval_ns(self) -> int:
        """`max_interval_ms` in nanoseconds."""
        return self.max_interval_ms * 1_000_000
