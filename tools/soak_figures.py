"""What a soak measures: the node's process by /proc, the slope of its memory, and the chart.

The slope is a straight line through the means of 20 equal stretches after the warm-up: neighbouring
samples are too alike to count as evidence each.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STRETCHES = 20
T_95 = 2.101
"""Student's t for 95 % of both sides and 18 degrees of freedom: 20 stretches, 2 parameters."""


@dataclass(frozen=True)
class ProcessSample:
    """The node's process and its children at one moment."""

    at_s: float
    rss_mib: float
    threads: int
    descriptors: int
    sockets: int
    cpu_s: float


def sample_of(pid: int, at_s: float) -> ProcessSample:
    """From /proc."""
    pids = [pid, *children_of(pid)]
    pages = sum(int(read(p, "statm").split()[1]) for p in pids)
    links = [link for p in pids for link in links_of(p)]
    stats = [read(p, "stat").rpartition(")")[2].split() for p in pids]
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in stats)
    return ProcessSample(
        at_s=round(at_s, 2),
        rss_mib=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        threads=sum(int(fields[17]) for fields in stats),
        descriptors=len(links),
        sockets=sum(link.startswith("socket:") for link in links),
        cpu_s=ticks / os.sysconf("SC_CLK_TCK"),
    )


def read(pid: int, name: str) -> str:
    """A file of /proc/PID."""
    return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8")


def children_of(pid: int) -> list[int]:
    """Direct children."""
    return [int(child) for child in read(pid, f"task/{pid}/children").split()]


def links_of(pid: int) -> list[str]:
    """What the open descriptors are."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:  # closed since it was listed  # noqa: PERF203
            continue
    return found


@dataclass(frozen=True)
class Slope:
    """MiB an hour, and the half width of its 95 % interval."""

    per_hour: float
    half_width: float

    @property
    def grows(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.per_hour - self.half_width > 0


def slope(
    samples: Sequence[ProcessSample], value: Callable[[ProcessSample], float]
) -> Slope | None:
    """None while there are fewer than two samples a stretch."""
    size = len(samples) // STRETCHES
    if size < 2:
        return None
    stretches = [samples[k * size : (k + 1) * size] for k in range(STRETCHES)]
    xs = [statistics.fmean(s.at_s for s in stretch) / 3600 for stretch in stretches]
    ys = [statistics.fmean(value(s) for s in stretch) for stretch in stretches]
    gain, offset = statistics.linear_regression(xs, ys)
    rest = sum((y - offset - gain * x) ** 2 for x, y in zip(xs, ys, strict=True))
    spread = sum((x - statistics.fmean(xs)) ** 2 for x in xs)
    return Slope(gain, T_95 * math.sqrt(rest / (STRETCHES - 2) / spread))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Some quantiles."""
    ordered = sorted(values) or [math.nan]
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    found = {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in at.items()}
    return {"n": len(values), **found}


def judged(samples: Sequence[ProcessSample], warmup_s: float) -> dict[str, Any]:
    """Slope of memory, and first and last stretch of what should not change at all."""
    after = [sample for sample in samples if sample.at_s >= warmup_s]
    found = slope(after, lambda sample: sample.rss_mib)
    quarter = max(1, len(after) // 4)
    ends = {
        key: [max(getattr(s, key) for s in part) for part in (after[:quarter], after[-quarter:])]
        for key in ("threads", "descriptors", "sockets")
        if after
    }
    facts = None if found is None else {**asdict(found), "grows": found.grows}
    return {"rss_slope_mib": facts, "first_and_last_quarter_max": ends}


def draw(found: dict[str, Any], path: Path) -> None:
    """Memory above, threads and descriptors below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 5))
    minutes = [sample["at_s"] / 60 for sample in found["samples"]]
    above.plot(minutes, [sample["rss_mib"] for sample in found["samples"]])
    above.set_ylabel("resident memory, MiB")
    above.axvspan(0, found["options"]["warmup"], alpha=0.15, label="warm-up")
    above.legend(loc="lower right")
    for key in ("threads", "descriptors", "sockets"):
        below.plot(minutes, [sample[key] for sample in found["samples"]], label=key)
    below.set(xlabel="minutes", ylim=(0, None))
    below.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
