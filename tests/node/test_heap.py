from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from contextlib import nullcontext

import pytest

from ureca.clock import ManualClock
from ureca.node.monitoring.memory_trim import EVERY_NS, MemoryTrimmer, frozen_gc, malloc_trim

PEAK = """
from pathlib import Path
from ureca.clock import ManualClock
from ureca.node.monitoring.memory_trim import EVERY_NS, MemoryTrimmer, malloc_trim

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) / 256

start = resident_mib()
pieces = [b"." * 65536 for _ in range(1024)]  # from the heap: too small to be mapped one by one
last = pieces.pop()  # at the heap's end: what lies before it cannot be given back by shrinking
pieces.clear()
kept = resident_mib()
clock = ManualClock()
trimmer = MemoryTrimmer(clock, malloc_trim())
clock.advance(ns=EVERY_NS)
trimmer.trim()
print(kept - start, resident_mib() - start)
"""

ARENAS = """
import ctypes, threading
from ureca.node.monitoring.memory_trim import one_arena

one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
threads = [threading.Thread(target=libc.malloc, args=(1000,)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_stats()
"""


def test_the_heap_is_tidied_now_and_then() -> None:
    clock, calls = ManualClock(), list[int]()
    trimmer = MemoryTrimmer(clock, calls.append)
    for _ in range(25):
        trimmer.trim()
        clock.advance(ns=EVERY_NS // 10)
    assert calls == [0, 0]


@pytest.mark.skipif(malloc_trim() is None, reason="this C library has no malloc_trim")
def test_freed_memory_goes_back_to_the_system() -> None:
    said = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    kept_mib, left_mib = map(float, said.stdout.split())
    assert kept_mib > 48, "glibc gave it back by itself: this test shows nothing"
    assert left_mib < 8


@pytest.mark.skipif(malloc_trim() is None, reason="this C library is not glibc")
def test_all_threads_share_one_arena() -> None:
    said = subprocess.run(
        [sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True
    )
    assert said.stderr.count("Arena ") == 1, said.stderr


def test_a_library_without_the_call_is_left_alone() -> None:
    clock = ManualClock()
    trimmer = MemoryTrimmer(clock, None)
    clock.advance(ns=2 * EVERY_NS)
    trimmer.trim()


class Ring:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.parametrize("frozen", [True, False])
def test_garbage_in_cycles_goes_where_collections_are_cheap(frozen: bool) -> None:
    clock = ManualClock()
    trimmer = MemoryTrimmer(clock, None)
    clock.advance(ns=EVERY_NS)
    gc.disable()
    try:
        with frozen_gc() if frozen else nullcontext():
            ring = weakref.ref(Ring())
            trimmer.trim()
            assert (ring() is None) == frozen
    finally:
        gc.enable()
    assert gc.get_freeze_count() == 0
