"""Counters: every frame and every caption request ends in exactly one counted way.

    frames_in   = processed + dropped(by reason) + in flight
    requests_in = final + same + abort + error   + in flight
    texts_in    = found + absent + abort + error + in flight

Thread-safe: the source, step, caption and control threads all write here.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

DropReason = Literal[
    "link_gap",
    "superseded",
    "expired",
    "busy",
    "decode_error",
    "bad_schema",
    "bad_version",
    "too_large",
    "internal",
    "shutdown",
]
"""Why a frame was not processed. `link_gap`: its number never arrived; `superseded`: a newer one
came first; `expired`: too old on arrival; `busy`: one stream too many; `internal`: a fault of ours,
in the log."""

End = Literal["final", "same", "abort", "error"]
TextEnd = Literal["found", "absent", "abort", "error"]
"""How a text that was asked of a frame ended."""
DROP_REASONS = frozenset(get_args(DropReason))


@dataclass(frozen=True)
class Balance:
    """A snapshot of the counters; those `_in_flight` have not ended."""

    frames_in: int
    frames_processed: int
    frames_dropped: dict[str, int]
    requests_in: int
    requests_ended: dict[str, int]
    regions_refused: int
    events_dropped: int
    texts_in: int = 0
    texts_ended: dict[str, int] = field(default_factory=dict)
    texts_in_flight: int = field(init=False)
    frames_in_flight: int = field(init=False)
    requests_in_flight: int = field(init=False)

    def __post_init__(self) -> None:
        frames = self.frames_in - self.frames_processed - sum(self.frames_dropped.values())
        object.__setattr__(self, "frames_in_flight", frames)
        requests = self.requests_in - sum(self.requests_ended.values())
        object.__setattr__(self, "requests_in_flight", requests)
        texts = self.texts_in - sum(self.texts_ended.values())
        object.__setattr__(self, "texts_in_flight", texts)

    @property
    def closed(self) -> bool:
        """True when nothing is open: what must hold after a drained shutdown."""
        return not (self.frames_in_flight or self.requests_in_flight or self.texts_in_flight)

    def counters(self) -> dict[str, int]:
        """Flat names and numbers, as the heartbeat carries them."""
        return {
            "frames_in": self.frames_in,
            "frames_processed": self.frames_processed,
            "frames_in_flight": self.frames_in_flight,
            **{f"drop_{reason}": count for reason, count in sorted(self.frames_dropped.items())},
            "requests_in": self.requests_in,
            "requests_in_flight": self.requests_in_flight,
            **{f"caption_{end}": count for end, count in sorted(self.requests_ended.items())},
            "texts_in": self.texts_in,
            "texts_in_flight": self.texts_in_flight,
            **{f"text_{end}": count for end, count in sorted(self.texts_ended.items())},
            "regions_refused": self.regions_refused,
            "events_dropped": self.events_dropped,
        }


class NodeCounters:
    """Counts; `balance()` is consistent because every entry is made under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()

    def frame_in(self, count: int = 1) -> None:
        """A frame arrived, or is known to have been sent."""
        self._add("frames_in", count)

    def frame_processed(self) -> None:
        """Count a frame that the pipeline processed."""
        self._add("frames_processed", 1)

    def frame_dropped(self, reason: DropReason, count: int = 1) -> None:
        """Count a received frame that will not be processed."""
        if reason not in DROP_REASONS:
            raise ValueError(f"expected a drop reason of {sorted(DROP_REASONS)}, got {reason!r}")
        with self._lock:
            self._dropped[reason] += count

    def request_in(self, count: int = 1) -> None:
        """A caption request was accepted."""
        self._add("requests_in", count)

    def request_ended(self, end: End) -> None:
        """A caption request got its one terminal event."""
        with self._lock:
            self._ended[end] += 1

    def text_in(self, count: int = 1) -> None:
        """Texts are asked of a frame."""
        self._add("texts_in", count)

    def text_ended(self, end: TextEnd) -> None:
        """One of them was answered, or given up."""
        with self._lock:
            self._texts[end] += 1

    def region_refused(self, count: int = 1) -> None:
        """A region of a prompt or a sender could not be followed."""
        self._add("regions_refused", count)

    def event_dropped(self, count: int = 1) -> None:
        """A delta or update was left out because the event queue was full."""
        self._add("events_dropped", count)

    def balance(self) -> Balance:
        """A snapshot of the counters."""
        with self._lock:
            return Balance(
                frames_in=self._count["frames_in"],
                frames_processed=self._count["frames_processed"],
                frames_dropped=dict(self._dropped),
                requests_in=self._count["requests_in"],
                requests_ended=dict(self._ended),
                regions_refused=self._count["regions_refused"],
                events_dropped=self._count["events_dropped"],
                texts_in=self._count["texts_in"],
                texts_ended=dict(self._texts),
            )

    def _add(self, name: str, count: int) -> None:
        with self._lock:
            self._count[name] += count
