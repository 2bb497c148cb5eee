"""Arbitrates free captioner slots between direct requests and streams. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ureca.node.scheduling.region_state import Priority

ASKS = ""
"""The turn of direct requests; streams have names."""
Halt = Literal["", "paused", "draining"]


class Turns:
    """Direct requests and streams alternate. Among streams with the same highest rank, the one that
    was served longest ago is first, regardless of the number of requests.
    """

    def __init__(self) -> None:
        self.halt: Halt = ""
        """Paused: nothing is captioned by itself. Draining: direct requests are refused, too."""
        self._count = 0
        self._served: dict[str, int] = {}

    def next(self, priorities: Mapping[str, Priority | None], *, asked: bool) -> str | None:
        """The name of the stream to serve, `ASKS`, or None; `asked` says that requests wait."""
        due = (
            []
            if self.halt
            else [self._key(name, priority) for name, priority in priorities.items() if priority]
        )
        turn = min(due)[-1] if due else None
        if asked and (
            turn is None or self._last(ASKS) <= max(map(self._last, priorities), default=0)
        ):
            turn = ASKS
        return turn

    def served(self, turn: str) -> None:
        """A batch of this turn was begun."""
        self._count += 1
        self._served[turn] = self._count

    def _key(self, name: str, priority: Priority) -> tuple[int, int, int, str]:
        rank, deadline_ns = priority
        return (rank, self._last(name), deadline_ns, name)

    def _last(self, turn: str) -> int:
        return self._served.get(turn, 0)
