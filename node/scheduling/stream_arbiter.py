"""Arbitrates free captioner slots between direct requests and streams. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ureca.node.scheduling.region_state import Priority

DIRECT = ""
"""Stands for direct requests; streams have names."""
TEXTS = "?"
"""Stands for texts to find."""
RunMode = Literal["", "paused", "draining"]


class StreamArbiter:
    """Alternates between direct requests, texts to find and streams. Among streams with the same
    highest rank, the one that was served longest ago is first, regardless of the number of
    requests.
    """

    def __init__(self) -> None:
        self.run_mode: RunMode = ""
        """`paused`: no region is captioned. `draining`: direct requests are refused, too."""
        self._count = 0
        self._served: dict[str, int] = {}

    def choose(
        self,
        priorities: Mapping[str, Priority | None],
        *,
        has_requests: bool,
        has_texts: bool = False,
    ) -> str | None:
        """Return the name of the stream to serve, `DIRECT`, `TEXTS`, or None. `has_requests` means
        that direct requests wait, `has_texts` that texts do.
        """
        due = (
            []
            if self.run_mode
            else [self._key(name, priority) for name, priority in priorities.items() if priority]
        )
        chosen = min(due)[-1] if due else None
        waiting = [name for name, is_in in ((DIRECT, has_requests), (TEXTS, has_texts)) if is_in]
        if not waiting:
            return chosen
        oldest = min(waiting, key=self._last)
        is_next = self._last(oldest) <= max(map(self._last, priorities), default=0)
        return oldest if chosen is None or is_next else chosen

    def mark_served(self, chosen: str) -> None:
        """Record that a batch of `chosen` was started."""
        self._count += 1
        self._served[chosen] = self._count

    def _key(self, name: str, priority: Priority) -> tuple[int, int, int, str]:
        rank, deadline_ns = priority
        return (rank, self._last(name), deadline_ns, name)

    def _last(self, chosen: str) -> int:
        return self._served.get(chosen, 0)
