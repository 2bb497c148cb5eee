"""Freed memory goes back to the system.

glibc keeps what was freed for the next allocation, so that each peak (pictures that piled up while
something else had the processor) stays in the resident set for ever. Asking it every ten seconds to
give back whole free pages costs half a millisecond and keeps the resident set at what is in use
(`docs/faults.md`, "For long"). Other C libraries have no such call and need none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from ureca.clock import Clock

EVERY_NS = 10_000_000_000
_MallocTrim = Callable[[int], object]


def malloc_trim() -> _MallocTrim | None:
    """glibc's call of this name (man 3 malloc_trim); None where the C library has none."""
    found: _MallocTrim | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


class Heap:
    """The process's heap; one thread calls it."""

    def __init__(self, clock: Clock, trim: _MallocTrim | None) -> None:
        self._clock, self._trim = clock, trim
        self._trimmed_ns = clock.now_ns()

    def tidy(self) -> None:
        """Give free pages back, if `EVERY_NS` have passed since it was done last."""
        now_ns = self._clock.now_ns()
        if self._trim is not None and now_ns - self._trimmed_ns >= EVERY_NS:
            self._trimmed_ns = now_ns
            self._trim(0)
