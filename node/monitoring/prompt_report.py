"""What became of the prompts that a node was started with, in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

UNUSED_AFTER_S = 5.0
"""A prompt that has not begun so long after the start is said in `health` and in the live table."""


@dataclass(frozen=True, slots=True)
class PromptReport:
    """What became of the prompts that a node was started with.

    `given` and `begun` are counts. `refused` are reasons, one for each prompt that was refused and
    never begun. `waiting` are the frames of those that neither began nor were refused.
    """

    given: int = 0
    begun: int = 0
    refused: tuple[str, ...] = ()
    waiting: tuple[int, ...] = ()
    newest_seq: int | None = None
    """The largest number of a frame that was seen; None before the first."""

    def waiting_lines(self) -> list[str]:
        """What waits for which frame, for people."""
        return [self._waits(frame, count) for frame, count in sorted(Counter(self.waiting).items())]

    def _waits(self, frame: int, count: int) -> str:
        who = "1 prompt waits" if count == 1 else f"{count} prompts wait"
        if self.newest_seq is None:
            return f"{who} for frame {frame}: no frame has come yet"
        return f"{who} for frame {frame}: the last one was {self.newest_seq}"
