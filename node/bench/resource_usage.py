"""The cost of the node: CPU seconds, resident memory, threads, and energy if it is measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from ureca.extras import require

EXTRA = "bench"
_POWERCAP = Path("/sys/class/powercap")


class Usage(msgspec.Struct, frozen=True):
    """The node at `at_ns` of the monotonic clock; energy is the whole host's, None if unknown."""

    at_ns: int
    cpu_s: float
    rss_bytes: int
    threads: int
    energy_uj: int | None = None


class Meter:
    """Reads one process. Raises `MissingExtraError` without psutil."""

    def __init__(self, pid: int, powercap: Path = _POWERCAP) -> None:
        self._process: Any = require("psutil", extra=EXTRA).Process(pid)
        self._packages = packages(powercap)

    def read(self) -> Usage:
        """Usage now."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            return Usage(
                at_ns=time.monotonic_ns(),
                cpu_s=times.user + times.system,
                rss_bytes=self._process.memory_info().rss,
                threads=self._process.num_threads(),
                energy_uj=energy_uj(self._packages),
            )


def packages(powercap: Path) -> tuple[Path, ...]:
    """RAPL counters of whole processors; those of their parts would count twice."""
    found = []
    for zone in sorted(powercap.glob("*")) if powercap.is_dir() else ():
        name = _read(zone / "name")
        if name is not None and name.startswith("package") and _read(zone / "energy_uj"):
            found.append(zone / "energy_uj")
    return tuple(found)


def energy_uj(counters: tuple[Path, ...]) -> int | None:
    """Sum of the counters in microjoules; None when there are none or one cannot be read."""
    values = [_read(counter) for counter in counters]
    if not values or not all(value and value.isdigit() for value in values):
        return None
    return sum(int(value) for value in values if value)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):  # since 2020 only root may read most of them
        return None
