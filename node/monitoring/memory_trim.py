"""Returns freed memory to the system, so that the resident set is what is in use.

glibc keeps freed memory for the next allocation: each peak (images that queued while another
process had the processor) stays resident unless `malloc_trim` returns whole free pages (half a
millisecond). It still keeps the ends of all arenas but the first, so there is one arena for all
threads. CPython keeps up to 2,000 freed tuples of each length, and clears these, and garbage in
cycles, only in a full collection, which it delays for hours when there are many permanent objects:
therefore they are frozen (`docs/faults.md`, "Long runs").
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ureca.clock import Clock

EVERY_NS = 10_000_000_000
_M_ARENA_MAX = -8
"""Of `malloc.h` (man 3 mallopt)."""
_MallocTrim = Callable[[int], object]


def malloc_trim() -> _MallocTrim | None:
    """glibc's call of this name (man 3 malloc_trim); None where the C library has none."""
    found: _MallocTrim | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


def one_arena() -> None:
    """Threads that start from now on share one of glibc's heaps; nothing elsewhere."""
    mallopt: Callable[[int, int], object] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


@contextmanager
def frozen_gc() -> Iterator[None]:
    """For a process that only runs a node: freeze the existing objects, so that collections inside
    skip them. Full collections then take a millisecond; `MemoryTrimmer` runs them.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class MemoryTrimmer:
    """The process's heap; one thread calls it."""

    def __init__(self, clock: Clock, trim: _MallocTrim | None) -> None:
        self._clock, self._trim = clock, trim
        self._tidied_ns = clock.now_ns()

    def trim(self) -> None:
        """Give free pages back, if `EVERY_NS` have passed since it was done last."""
        now_ns = self._clock.now_ns()
        if now_ns - self._tidied_ns < EVERY_NS:
            return
        self._tidied_ns = now_ns
        if gc.get_freeze_count():  # else it might take a tenth of a second, of every thread
            gc.collect()
        if self._trim is not None:
            self._trim(0)
