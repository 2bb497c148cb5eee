"""The cost of the node: CPU seconds, resident memory, threads, and energy if it is measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from ureca.extras import require

EXTRA = "bench"
_POWERCAP = Path("/sys/class/powercap")
_HWMON = Path("/sys/class/hwmon")
_JETSON_INPUT = "VDD_IN"
"""The rail that feeds a whole Jetson module, where its power monitor (INA3221) has it."""


class Usage(msgspec.Struct, frozen=True):
    """The node at `at_ns` of the monotonic clock; energy is the whole host's, None if unknown."""

    at_ns: int
    cpu_s: float
    rss_bytes: int
    threads: int
    energy_uj: int | None = None


class Meter:
    """Reads one process. Raises `MissingExtraError` without psutil."""

    def __init__(self, pid: int, powercap: Path = _POWERCAP, hwmon: Path = _HWMON) -> None:
        self._process: Any = require("psutil", extra=EXTRA).Process(pid)
        self._packages = packages(powercap)
        self._rail = None if self._packages else find_rail(hwmon)

    def read(self) -> Usage:
        """Usage now."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            return Usage(
                at_ns=time.monotonic_ns(),
                cpu_s=times.user + times.system,
                rss_bytes=self._process.memory_info().rss,
                threads=self._process.num_threads(),
                energy_uj=self._rail.energy_uj() if self._rail else energy_uj(self._packages),
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


class Rail:
    """A power monitor's channel. It reads power, so energy is the sum over the times between two
    reads, each at the mean of both powers.
    """

    def __init__(self, voltage_mv: Path, current_ma: Path) -> None:
        self._paths = (voltage_mv, current_ma)
        self._last: tuple[int, float] | None = None
        self._uj = 0.0

    def energy_uj(self, now_ns: int | None = None) -> int | None:
        """Microjoules since the first call; None if a channel cannot be read."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        values = [_read(path) for path in self._paths]
        if not all(value and value.isdigit() for value in values):
            return None
        millivolts, milliamperes = (int(value or 0) for value in values)
        uw = float(millivolts * milliamperes)
        if self._last is not None:
            then_ns, before_uw = self._last
            self._uj += (now_ns - then_ns) / 1e9 * (uw + before_uw) / 2
        self._last = now_ns, uw
        return round(self._uj)


def find_rail(hwmon: Path) -> Rail | None:
    """The input of a Jetson module below `/sys/class/hwmon`; None on other machines."""
    for label in sorted(hwmon.glob("hwmon*/in*_label")) if hwmon.is_dir() else ():
        if _read(label) == _JETSON_INPUT:
            number = label.name.removeprefix("in").removesuffix("_label")
            return Rail(
                label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
            )
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):  # since 2020 only root may read most of them
        return None
