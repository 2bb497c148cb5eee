"""Detects missing frames by stamps: OpenCV hides the numbers of drivers, files have none."""

from __future__ import annotations

import statistics
from collections import deque

_REMEMBERED = 31
_LEAST = 7
_LATE = 1.75
_MAX_MISSING = 1_000


class StampGaps:
    """Estimates missing frames from the time between stamps, against its running median.

    A camera that halves its rate (in the dark) looks like one that drops every other frame until
    the median has followed: at most 16 frames.
    """

    def __init__(self) -> None:
        self._steps_ns: deque[int] = deque(maxlen=_REMEMBERED)
        self._last_ns: int | None = None

    def missing(self, stamp_ns: int) -> int:
        """How many frames are missing before the one of this stamp."""
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if last_ns is None or stamp_ns <= last_ns:
            return 0
        step_ns = stamp_ns - last_ns
        usual_ns = statistics.median(self._steps_ns) if len(self._steps_ns) >= _LEAST else 0
        self._steps_ns.append(step_ns)
        if not usual_ns or step_ns < _LATE * usual_ns:
            return 0
        return min(_MAX_MISSING, round(step_ns / usual_ns) - 1)
