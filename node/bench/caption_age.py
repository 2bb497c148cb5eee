"""Computes the age of a subscriber's newest captions, and the waiting time of new regions."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ureca.node.bench.intervals import F64
from ureca.node.bench.subscriber import ReceivedEvent

_EVERY_S = 0.1
_BIRTHS = frozenset({"track.new", "track.recovered"})
_DEATHS = frozenset({"track.lost", "track.end"})
_SAYS = frozenset({"caption.final", "caption.same"})


@dataclass(slots=True)
class _Life:
    """One region: when the subscriber thought it visible, and what it was told when."""

    spans_ns: list[list[int]] = field(default_factory=list)
    heard_ns: list[int] = field(default_factory=list)
    validity_ns: list[tuple[int, int]] = field(default_factory=list)
    """Capture and end of validity of what was heard, in nanoseconds."""

    def note(self, sample: ReceivedEvent) -> None:
        open_span = bool(self.spans_ns) and len(self.spans_ns[-1]) == 1
        if sample.kind in _BIRTHS and not open_span:
            self.spans_ns.append([sample.at_ns])
        elif sample.kind in _DEATHS and open_span:
            self.spans_ns[-1].append(sample.at_ns)
        elif sample.kind in _SAYS:
            self.heard_ns.append(sample.at_ns)
            self.validity_ns.append(
                (sample.captured_ns, sample.captured_ns + sample.ttl_ms * 1_000_000)
            )

    def is_visible(self, at_ns: int) -> bool:
        return any(
            span[0] <= at_ns and (len(span) == 1 or at_ns < span[1]) for span in self.spans_ns
        )

    def age_ms(self, at_ns: int) -> float | None:
        """Age of the newest caption known; None when there is none or it is no longer valid."""
        known = self.validity_ns[: bisect_right(self.heard_ns, at_ns)]
        capture_ns, until_ns = max(known, default=(0, 0))
        return (at_ns - capture_ns) / 1e6 if at_ns < until_ns else None


def ages(
    samples: Iterable[ReceivedEvent], *, start_ns: int, begin_s: float, end_s: float
) -> tuple[F64, float]:
    """Ten times a second and for every visible region, the age of its newest valid caption.

    Returns [n, 2] of seconds and milliseconds, and the share of looks that found none.
    """
    lives = _lives(samples)
    found: list[tuple[float, float]] = []
    looks = 0
    for at_s in np.arange(begin_s, end_s, _EVERY_S):
        at_ns = start_ns + round(at_s * 1e9)
        for life in lives:
            if life.is_visible(at_ns):
                looks += 1
                age_ms = life.age_ms(at_ns)
                found += [] if age_ms is None else [(float(at_s), age_ms)]
    return np.asarray(found, np.float64).reshape(-1, 2), 1 - len(found) / looks if looks else 0.0


def first_captions(samples: Sequence[ReceivedEvent]) -> list[float]:
    """Per region, milliseconds from the capture that it was first seen on to its first caption."""
    born: dict[str, int] = {}
    waited: dict[str, float] = {}
    for sample in samples:
        if sample.kind == "track.new":
            born.setdefault(sample.rid, sample.captured_ns)
        elif sample.kind == "caption.final" and sample.rid in born:
            waited.setdefault(sample.rid, (sample.at_ns - born[sample.rid]) / 1e6)
    return list(waited.values())


def _lives(samples: Iterable[ReceivedEvent]) -> list[_Life]:
    lives: dict[str, _Life] = defaultdict(_Life)
    for sample in samples:
        if sample.rid:
            lives[sample.rid].note(sample)
    return list(lives.values())
