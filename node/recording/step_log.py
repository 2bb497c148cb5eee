"""Records the external inputs of the step thread without changing its behaviour.

Each call of the pipeline is a turn. A turn keeps the order of reads: finished captions, free slots
of the captioner, new requests. Each call of the engine is a batch: which rows were aborted at which
step, and whether it failed. A replay needs only this and the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import msgspec

from ureca.datatypes import Frame, TrackSet
from ureca.errors import RequestError, UrecaError
from ureca.node.captioning.batch import Job
from ureca.node.pipeline.request_queue import Ask, Order
from ureca.node.recording.lossless_images import to_png
from ureca.node.segmentation.keyframe_segmenter import KeyframeResult
from ureca.protocol.events import AnyEvent
from ureca.protocol.operations import OPERATIONS

Call = Literal["step", "tick", "settle", "close"]


class Ended(msgspec.Struct, frozen=True, omit_defaults=True):
    """A caption whose end the step thread saw. `reason` is that of an abort."""

    request_id: int
    ended_ns: int
    reason: str | None = None


class RecordedRequest(msgspec.Struct, frozen=True):
    """One row of a batch that was decided on."""

    request_id: int
    stream: str
    rid: str
    rev: int
    trigger: str
    seq: int


class RecordedStep(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One call of the pipeline, and what it saw and decided."""

    n: int
    call: Call
    now_ns: int
    reason: str = ""
    frame: dict[str, Any] | None = None
    asks: list[dict[str, Any]] = []
    orders: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    """What orders led to, in their order."""
    ended: list[list[Ended]] = []
    rooms: list[int] = []
    jobs: list[list[RecordedRequest]] = []
    cuts: list[KeyframeResult] = []
    """What a segmenter had cut out of an earlier frame."""


class RecordedBatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of the engine. `stopped`: after how many reads of its abort flag a row ended.

    `failure` is the error's type and text, `outputs` the number of results before it.
    """

    rows: tuple[int, ...] = ()
    """Request ids in the order of the engine's rows; empty when `encode` failed."""
    stopped: dict[int, int] = {}
    failure: tuple[str, str] | None = None
    outputs: int = 0


class StepLog(Protocol):
    """Where notes go; called from the node's threads and never blocks."""

    def turn(self, turn: RecordedStep) -> None:
        """A call of the pipeline has returned."""

    def picture(self, turn: int, frame: Frame) -> None:
        """The picture of a turn that is about to begin."""

    def tracks(self, turn: int, tracks: TrackSet) -> None:
        """The regions after a frame."""

    def batch(self, batch: RecordedBatch) -> None:
        """The engine has finished a call."""

    def reply(self, event: AnyEvent) -> None:
        """A reply that only the client of a direct request got."""


class StepRecorder:
    """The turn that is under way; shared by the three wrappers of one node."""

    def __init__(self, step_log: StepLog) -> None:
        self.step_log = step_log
        self.open: RecordedStep | None = None
        self.job: Job | None = None
        self._count = 0

    @contextmanager
    def turn(self, call: Call, now_ns: int, *, reason: str = "") -> Iterator[RecordedStep]:
        """Note everything until the end of the block, even when it raises."""
        self.open = RecordedStep(n=self._count, call=call, now_ns=now_ns, reason=reason)
        self._count += 1
        try:
            yield self.open
        finally:
            turn, self.open = self.open, None
            self.step_log.turn(turn)


def recorded_requests(job: Job) -> list[RecordedRequest]:
    """What a job was decided to be."""
    rows = (row.request for row in job.rows)
    return [
        RecordedRequest(r.request_id, r.stream, r.rid, r.rev, r.trigger.value, r.frame_seq)
        for r in rows
    ]


def dataclass_fields(data: Any, *without: str) -> dict[str, Any]:  # a dataclass of any kind
    """The fields of a dataclass as plain data for JSON."""
    fields = {name: getattr(data, name) for name in data.__dataclass_fields__}
    plain = {name: value for name, value in fields.items() if name not in without}
    return dict(msgspec.to_builtins(plain))


def describe_fields(ask: Ask) -> dict[str, Any]:
    """A request without its way back; a picture of the client's own as PNG."""
    plain = dataclass_fields(ask, "reply", "fail", "frame")
    if ask.frame is not None:
        plain["frame"] = dataclass_fields(ask.frame, "image")
        plain["png"] = to_png(ask.frame.image)
    return plain


def command_fields(order: Order) -> dict[str, Any]:
    """A request that changes regions, without its way back."""
    plain = dataclass_fields(order, "reply", "fail", "args")
    op = next(name for name, op in OPERATIONS.items() if isinstance(order.args, op.args))
    return {**plain, "op": op, "args": msgspec.to_builtins(order.args)}


def failure(error: UrecaError) -> dict[str, Any]:
    """What an order's failure is remembered as."""
    code = error.code if isinstance(error, RequestError) else type(error).__name__
    return {"code": code, "msg": str(error)}
