"""The batches that the step thread passes to a captioner, and their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from ureca.datatypes import Frame, RegionRequest
from ureca.node.captioning.grounding import FinishedGrounding, GroundingRequest
from ureca.node.counters import End
from ureca.protocol.events import CaptionTerminal, EventSink


@dataclass(frozen=True, slots=True)
class CaptionBatch:
    """Regions of one frame to caption together. `track_us` is what following them took.

    `replies` says, by request id, where the events of a direct request go; the events of all other
    requests go to the subscribers.
    """

    frame: Frame
    requests: tuple[RegionRequest, ...]
    replies: Mapping[int, EventSink] = field(default_factory=dict)
    track_us: int = 0


class FinishedCaption(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one request of a batch ended. `reason` is that of an abort."""

    request_id: int
    end: End
    ended_ns: int
    reason: str | None = None


class EngineRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came from outside into one call of the engine; a replay needs it.

    `stopped` says, by request id, after how many reads of its abort flag a row ended. `failure` is
    the type and the text of the error, `outputs` the number of results before it.
    """

    rows: tuple[int, ...] = ()
    """Request ids in the order of the engine's rows; empty when `encode` failed."""
    stopped: dict[int, int] = {}
    failure: tuple[str, str] | None = None
    outputs: int = 0


class CaptionLog(Protocol):
    """Where a captioner notes what a replay needs; called on its thread, never blocks."""

    def engine_run(self, run: EngineRun) -> None:
        """The engine has finished a call."""

    def direct_reply(self, event: CaptionTerminal) -> None:
        """The end of a direct request, which no subscriber gets."""


class BatchCaptioner(Protocol):
    """Takes one batch of captions or one grounding at a time."""

    can_ground: bool
    """Whether it takes groundings: the bundle has the weights for them."""
    attributes: tuple[str, ...]
    """The attributes of regions that it answers."""

    @property
    def free_slots(self) -> int:
        """How many regions the next batch may have; 0 while one, or a grounding, is in flight."""

    def start(self, send: EventSink, wake: Callable[[], None]) -> None:
        """Set the receiver of events and the wake-up after a batch; called once, before the first
        batch.
        """

    def submit(self, batch: CaptionBatch) -> None:
        """Start a batch; only while `free_slots` allows it."""

    def submit_grounding(self, request: GroundingRequest) -> None:
        """Start to ground texts; only while `room` allows it, and if `can_ground`."""

    def finished_groundings(self) -> tuple[FinishedGrounding, ...]:
        """The groundings that ended since the last call."""

    def abort(self, request_id: int, reason: str) -> None:
        """Stop writing for a request; its terminal event will be `caption.abort` unless it had
        ended.
        """

    def finished(self) -> tuple[FinishedCaption, ...]:
        """The requests that ended since the last call."""

    def close(self) -> None:
        """Abort what is in flight, wait for it, and stop."""
