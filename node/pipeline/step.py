"""The input and the output of one step of the pipeline, as plain data.

The step thread gathers a `StepInput` and carries out the `StepOutput`. A recording is a list of
inputs, and a replay reads them. Compare mini-sglang's scheduler loop: receive, schedule, process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from ureca.datatypes import AskedStyle, Frame, RegionSeed, TrackSet
from ureca.errors import RequestError, UrecaError
from ureca.node.captioning.batch import CaptionBatch, FinishedCaption
from ureca.node.captioning.grounding import FinishedGrounding, GroundingRequest
from ureca.node.scheduling.scheduler import Abort
from ureca.node.segmentation.keyframe_segmenter import KeyframeRequest, KeyframeResult
from ureca.protocol.events import AnyEvent
from ureca.protocol.region_requests import RegionAddArgs
from ureca.protocol.requests import FindArgs

RequestKey = tuple[bytes, bytes]
"""The client and its request id, which `cancel` uses."""


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """One `describe`. Exactly one of `stream` and `frame` (a picture of the client's own), and at
    most one of `rid` and `seed`. `send` gets the caption's events; `fail` gets the error when no
    caption could be started.
    """

    send: Callable[[AnyEvent], None]
    fail: Callable[[UrecaError], None]
    deadline_ns: int
    stream: str | None = None
    frame: Frame | None = None
    rid: str | None = None
    seed: RegionSeed | None = None
    style: AskedStyle = "short"
    max_new_tokens: int | None = None
    key: RequestKey = (b"", b"")
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegionCommand:
    """One request that changes regions or the run mode; exactly one of `reply` and `fail` is
    called. `client` and `request_id` are for `cancel`.
    """

    args: Struct
    client: bytes
    reply: Callable[[dict[str, Any]], None]
    fail: Callable[[UrecaError], None]
    deadline_ns: int
    request_id: bytes = b""


@dataclass(frozen=True, slots=True)
class FindRequest:
    """One `find` by likelihood; exactly one of `reply` and `fail` is called. `key` is for
    `cancel`.
    """

    args: FindArgs
    reply: Callable[[dict[str, Any]], None]
    fail: Callable[[UrecaError], None]
    deadline_ns: int
    key: RequestKey = (b"", b"")


StepRequest = DescribeRequest | RegionCommand | FindRequest


def asks_text(request: StepRequest) -> bool:
    """Whether the request waits for a text to be grounded."""
    if isinstance(request, FindRequest):
        return True
    args = request.args if isinstance(request, RegionCommand) else None
    return isinstance(args, RegionAddArgs) and args.text is not None and not args.standing


_RETRY_MS = 500


def busy(limit: int) -> RequestError:
    """Why a request is refused when `limit` others wait."""
    text = f"{limit} requests are waiting; try again soon"
    return RequestError(text, code="BUSY", retry_after_ms=_RETRY_MS)


@dataclass(frozen=True, slots=True)
class StepReply:
    """The result of a `RegionCommand` or `FindRequest`, or the error of any kind of request."""

    request: StepRequest
    result: dict[str, Any] | UrecaError

    def deliver(self) -> None:
        """Tell the client."""
        if isinstance(self.result, UrecaError):
            self.request.fail(self.result)
        elif not isinstance(self.request, DescribeRequest):
            self.request.reply(self.result)


@dataclass(frozen=True, slots=True)
class StepInput:
    """Everything that decides a step. Without `frame` the step only goes on with what is there.

    `captioner_room` is how many regions the next batch may have; 0 starts no work. `can_ground`:
    the captioner takes groundings of texts, too. `closing` is the
    reason of the end: every request and region ends in this step.
    """

    now_ns: int
    frame: Frame | None = None
    requests: tuple[StepRequest, ...] = ()
    finished_captions: tuple[FinishedCaption, ...] = ()
    finished_keyframes: tuple[KeyframeResult, ...] = ()
    finished_groundings: tuple[FinishedGrounding, ...] = ()
    captioner_room: int = 0
    can_ground: bool = False
    closing: str = ""


@dataclass(slots=True)
class StepOutput:
    """Everything that a step leads to, in the order in which it is carried out: at most one of
    `batch` and `grounding`.

    `tracks` are the regions on the input's frame. `failure` is what ended the step early: the
    rest of the output is what was decided before it.
    """

    events: list[AnyEvent] = field(default_factory=list)
    replies: list[StepReply] = field(default_factory=list)
    aborts: list[Abort] = field(default_factory=list)
    batch: CaptionBatch | None = None
    grounding: GroundingRequest | None = None
    keyframe: KeyframeRequest | None = None
    tracks: TrackSet | None = None
    failure: Exception | None = None


class StepLog(Protocol):
    """Where steps are noted; called on the step thread, never blocks."""

    def step(self, number: int, given: StepInput, output: StepOutput) -> None:
        """Step `number` has ended and its output was carried out."""
