"""What the step thread gives a captioner, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ureca.datatypes import Frame, RegionRequest
from ureca.node.counters import End
from ureca.protocol.events import AnyEvent, CaptionAbort, CaptionFinal, CaptionTerminal

Send = Callable[[AnyEvent], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One region of a batch. Events go to `reply` for a direct request, else to all subscribers."""

    request: RegionRequest
    reply: Send | None = None
    key: tuple[bytes, bytes] = (b"", b"")
    """The client and id of a direct request."""


@dataclass(frozen=True, slots=True)
class Job:
    """Regions of one frame to caption in one batch. `track_us` is what following them took."""

    frame: Frame
    rows: tuple[Row, ...]
    track_us: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one row ended."""

    row: Row
    event: CaptionTerminal
    ended_ns: int

    @property
    def end(self) -> End:
        """The name of its counter."""
        if isinstance(self.event, CaptionFinal):
            return "final"
        return "abort" if isinstance(self.event, CaptionAbort) else "error"


class BatchCaptioner(Protocol):
    """Takes one job at a time."""

    @property
    def room(self) -> int:
        """How many regions the next job may have; 0 while one is in flight."""

    def bind(self, send: Send, wake: Callable[[], None]) -> None:
        """Set the event sink and the wake-up after a batch; called once, before the first job."""

    def submit(self, job: Job) -> None:
        """Start a job; only while `room` allows it."""

    def abort(self, request_id: int, reason: str) -> None:
        """Stop writing for a request; its terminal event will be `caption.abort` unless it had
        ended.
        """

    def outcomes(self) -> list[Outcome]:
        """The rows that ended since the last call."""

    def close(self) -> None:
        """Abort what is in flight, wait for it, and stop."""
