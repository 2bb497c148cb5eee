"""Runs steps: gathers each input from the other threads, and executes the output."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from ureca.clock import Clock
from ureca.datatypes import Frame
from ureca.errors import RequestError
from ureca.log import RateLimitedLog
from ureca.node.captioning.batch import BatchCaptioner
from ureca.node.config import LimitsConfig
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step import (
    DescribeRequest,
    RegionCommand,
    StepInput,
    StepLog,
    StepOutput,
    StepRequest,
    asks_text,
    busy,
)
from ureca.node.segmentation.keyframe_segmenter import KeyframeResult
from ureca.node.segmentation.worker import SegmentationWorker
from ureca.protocol.events import EventSink

_Kind = Literal["describe", "find", "command"]
_STUCK_NS = 1_000_000_000
"""A captioner whose requests have all ended is done within this, or hangs."""


class RequestQueue:
    """Requests in the order of their arrival; thread-safe.

    `limits.max_asks` bounds the `describe` requests that wait here or in the pipeline,
    `limits.max_finds` those that wait for the answer to a text, `limits.max_orders` the region
    commands that wait here.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits: dict[_Kind, int] = {
            "describe": limits.max_asks,
            "find": limits.max_finds,
            "command": limits.max_orders,
        }
        self._lock = threading.Lock()
        self._requests: list[StepRequest] = []
        self._is_closed = False

    def put(self, request: StepRequest, *, ahead: Mapping[_Kind, int]) -> None:
        """Raises `RequestError` with BUSY when too many wait, GONE when the node is stopping.

        `ahead` is how many requests of each kind wait in the pipeline.
        """
        kind = _kind_of(request)
        with self._lock:
            if self._is_closed:
                raise RequestError("the node is shutting down", code="GONE")
            waiting = sum(_kind_of(r) == kind for r in self._requests) + ahead.get(kind, 0)
            if waiting >= self._limits[kind]:
                raise busy(self._limits[kind])
            self._requests.append(request)

    def take_all(self) -> tuple[StepRequest, ...]:
        """Remove and return everything."""
        with self._lock:
            taken, self._requests = tuple(self._requests), []
            return taken

    def close(self) -> tuple[StepRequest, ...]:
        """Refuse further requests and return those that waited."""
        with self._lock:
            self._is_closed = True
        return self.take_all()

    def __len__(self) -> int:
        return len(self._requests)


def _kind_of(request: StepRequest) -> _Kind:
    if asks_text(request):
        return "find"
    return "describe" if isinstance(request, DescribeRequest) else "command"


class StepRunner:
    """The pipeline between its captioner, its segmenter and the requests of clients.

    One thread calls `step`, `settle` and `close`; `submit` and `reasons` may be called from any.
    `emit` gets all events, from the caller's thread and from the captioner's.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        captioner: BatchCaptioner,
        segmentation_worker: SegmentationWorker | None = None,
        *,
        limits: LimitsConfig,
        clock: Clock,
        emit: EventSink,
        wake: Callable[[], None] = lambda: None,
        step_log: StepLog | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._captioner = captioner
        self._segmentation_worker = segmentation_worker
        self._requests = RequestQueue(limits)
        self._clock = clock
        self._emit = emit
        self._wake = wake
        self._step_log = step_log
        self._steps = 0
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._stuck_since_ns: int | None = None

    def start(self) -> None:
        """Start the threads of the captioner and of the segmenter; called once, before `step`."""
        self._captioner.start(self._emit, self._wake)
        if self._segmentation_worker is not None:
            self._segmentation_worker.start()

    def submit(self, request: StepRequest) -> None:
        """Queue a request for the next step. Raises `RequestError` (BUSY, GONE, NO_STREAM)."""
        if not isinstance(request, RegionCommand):
            streams = self.pipeline.streams()
            stream = request.stream if isinstance(request, DescribeRequest) else request.args.stream
            if stream is not None and stream not in streams:
                known = sorted(streams) or "none yet"
                raise RequestError(f"no stream {stream!r}; there are {known}", code="NO_STREAM")
        ahead: dict[_Kind, int] = {
            "describe": self.pipeline.describes_waiting,
            "find": self.pipeline.finds_waiting,
        }
        self._requests.put(request, ahead=ahead)
        self._wake()

    def step(self, frame: Frame | None = None) -> StepOutput:
        """Run one step, on `frame` or on what came in without one."""
        given = StepInput(
            now_ns=self._clock.now_ns(),
            frame=frame,
            requests=self._requests.take_all(),
            finished_captions=self._captioner.finished(),
            finished_keyframes=self._finished_keyframes(),
            finished_groundings=self._captioner.finished_groundings(),
            captioner_room=self._captioner.free_slots,
            can_ground=self._captioner.can_ground,
        )
        return self._run(given)

    def settle(self) -> bool:
        """Take in what was captioned without starting more; True when nothing is in flight."""
        self._run(
            StepInput(
                self._clock.now_ns(),
                finished_captions=self._captioner.finished(),
                finished_groundings=self._captioner.finished_groundings(),
                can_ground=self._captioner.can_ground,
            )
        )
        return self._captioner.free_slots > 0

    def is_idle(self) -> bool:
        """True when nothing is in flight and every visible region had its chance of a caption."""
        return (
            self._captioner.free_slots > 0 and not len(self._requests) and self.pipeline.is_idle()
        )

    def close(self, reason: str) -> StepOutput:
        """End every request and every region; afterwards nothing is in flight."""
        requests = self._requests.close()
        self._captioner.close()
        return self._run(
            StepInput(
                now_ns=self._clock.now_ns(),
                requests=requests,
                finished_captions=self._captioner.finished(),
                finished_groundings=self._captioner.finished_groundings(),
                can_ground=self._captioner.can_ground,
                closing=reason,
            )
        )

    def reasons(self) -> list[str]:
        """Why captions are not what they should be."""
        found, since_ns = self.pipeline.reasons(), self._stuck_since_ns
        if since_ns is not None and self._clock.now_ns() - since_ns > _STUCK_NS:
            found.append("the captioner does not return from a batch that was given up")
        return found

    def _run(self, given: StepInput) -> StepOutput:
        output = self.pipeline.step(given)
        for event in output.events:
            self._emit(event)
        for reply in output.replies:
            reply.deliver()
        for abort in output.aborts:
            self._captioner.abort(abort.request_id, abort.reason)
        if output.batch is not None:
            self._captioner.submit(output.batch)
        if output.grounding is not None:
            self._captioner.submit_grounding(output.grounding)
        if output.keyframe is not None and self._segmentation_worker is not None:
            self._segmentation_worker.submit(output.keyframe)
        if self._step_log is not None:
            self._step_log.step(self._steps, given, output)
        self._steps += 1
        self._look_for_a_hang()
        if output.failure is not None:
            name = type(output.failure).__name__
            self._log.warning(name, "a step failed inside the node", error=output.failure)
        return output

    def _finished_keyframes(self) -> tuple[KeyframeResult, ...]:
        worker = self._segmentation_worker
        return () if worker is None else tuple(worker.results())

    def _look_for_a_hang(self) -> None:
        """A captioner that is busy although every request of it has ended."""
        if self._captioner.free_slots > 0 or self.pipeline.in_flight:
            self._stuck_since_ns = None
        elif self._stuck_since_ns is None:
            self._stuck_since_ns = self._clock.now_ns()
