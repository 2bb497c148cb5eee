"""Clocks as parameters: code that needs the time gets a clock, so that tests control the time."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from pathlib import Path
from typing import Protocol


@functools.cache
def clock_domain() -> bytes:
    """16 bytes that are equal for processes whose monotonic clocks can be compared: the same boot
    of the same kernel, in the same time namespace (containers of a host share both).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = str(Path("/proc/self/ns/time").readlink())
    except OSError:  # no Linux: equal for this process alone, so stamps of others are never trusted
        boot, space = os.urandom(16).hex(), ""
    return hashlib.blake2b(f"{boot} {space}".encode("ascii"), digest_size=16).digest()


class Clock(Protocol):
    """Returns the time of one clock domain in nanoseconds."""

    @property
    def name(self) -> str:
        """The domain's name in the protocol: `mono`, `utc`, `tai` or `ptp`."""

    def now_ns(self) -> int:
        """Nanoseconds since an origin that is fixed within the domain; never falls."""


class MonotonicClock:
    """The host's monotonic clock: comparable between processes of one host, not between hosts."""

    name = "mono"

    def now_ns(self) -> int:
        """Nanoseconds of `time.monotonic_ns`."""
        return time.monotonic_ns()


class ManualClock:
    """A clock that changes only by `advance`."""

    name = "mono"

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """The time that was set."""
        return self._now_ns

    def advance(self, *, ns: int = 0, ms: float = 0.0) -> int:
        """Move forward and return the new time; a clock never falls."""
        step_ns = ns + round(ms * 1e6)
        if step_ns < 0:
            raise ValueError(
                f"a clock never falls: expected a step of at least 0 ns, got {step_ns}"
            )
        self._now_ns += step_ns
        return self._now_ns
