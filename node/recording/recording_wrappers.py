"""The step thread's parts while recording: they work as before and log what they saw."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ureca.datatypes import EngineInfo, Frame, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import EncodedFrame, Engine, never
from ureca.errors import RequestError, UrecaError
from ureca.node.captioning.batch import BatchCaptioner, Job, Outcome, Send
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.request_queue import Ask, Order
from ureca.node.recording.step_log import (
    Ended,
    RecordedBatch,
    RecordedStep,
    StepRecorder,
    command_fields,
    dataclass_fields,
    describe_fields,
    failure,
    recorded_requests,
)
from ureca.node.segmentation.keyframe_segmenter import KeyframeResult
from ureca.node.segmentation.worker import SegmentationWorker
from ureca.protocol.events import AnyEvent, CaptionAbort, CaptionTerminal


class RecordingPipeline(Pipeline):
    """`Pipeline` whose calls are noted. Requests wait for the next turn, so that each is taken at a
    known place.
    """

    def __init__(self, *args: Any, step_recorder: StepRecorder, **options: Any) -> None:
        super().__init__(*args, **options)
        self._step_recorder = step_recorder
        self._later: deque[Ask | Order] = deque()
        self._lock_later = threading.Lock()
        self._is_shut = False

    def step(self, frame: Frame, now_ns: int) -> list[AnyEvent]:
        """See `Pipeline.step`."""
        with self._step_recorder.turn("step", now_ns) as turn:
            self._step_recorder.step_log.picture(turn.n, frame)
            turn.frame = dataclass_fields(frame, "image")
            self._take_later(turn)
            events = super().step(frame, now_ns)
            if frame.stream in self._streams:
                self._step_recorder.step_log.tracks(turn.n, self._streams[frame.stream].tracks)
        return events

    def tick(self, now_ns: int) -> list[AnyEvent]:
        """See `Pipeline.tick`."""
        with self._step_recorder.turn("tick", now_ns) as turn:
            self._take_later(turn)
            return super().tick(now_ns)

    def settle(self) -> bool:
        """See `Pipeline.settle`."""
        with self._step_recorder.turn("settle", self._clock.now_ns()):
            return super().settle()

    def close(self, reason: str, now_ns: int) -> list[AnyEvent]:
        """See `Pipeline.close`."""
        with self._step_recorder.turn("close", now_ns, reason=reason) as turn:
            self._is_shut = True
            self._take_later(turn)
            return super().close(reason, now_ns)

    def is_idle(self) -> bool:
        """See `Pipeline.is_idle`."""
        return super().is_idle() and not self._later

    def ask(self, ask: Ask) -> None:
        """See `Pipeline.ask`; what can only be known in the turn is told through `ask.fail`."""
        if ask.stream is not None and ask.stream not in self._streams:
            super().ask(ask)  # says that there is no such stream
        self._postpone(ask, self._config.limits.max_asks)

    def order(self, order: Order) -> None:
        """See `Pipeline.order`."""
        self._postpone(order, self._config.limits.max_orders)

    def _postpone(self, request: Ask | Order, limit: int) -> None:
        with self._lock_later:
            if self._is_shut:
                raise RequestError("the node is shutting down", code="GONE")
            if len(self._later) >= limit:
                raise RequestError("too many requests wait", code="BUSY", retry_after_ms=500)
            self._later.append(request)
        self._wake()

    def _take_later(self, turn: RecordedStep) -> None:
        with self._lock_later:
            later, self._later = self._later, deque()
        for request in later:
            self._take(request, turn)

    def _take(self, request: Ask | Order, turn: RecordedStep) -> None:
        try:
            if isinstance(request, Ask):
                turn.asks.append(describe_fields(request))
                super().ask(replace(request, reply=self._noted(request.reply)))
            else:
                turn.orders.append(command_fields(request))
                super().order(_answered(request, turn))
        except UrecaError as error:
            request.fail(error)

    def _noted(self, reply: Send) -> Send:
        def noted(event: AnyEvent) -> None:
            if isinstance(event, CaptionTerminal):
                self._step_recorder.step_log.reply(event)
            reply(event)

        return noted


class RecordingCaptioner:
    """A `BatchCaptioner` that notes what the pipeline saw of it."""

    def __init__(self, captioner: BatchCaptioner, step_recorder: StepRecorder) -> None:
        self._captioner = captioner
        self._step_recorder = step_recorder
        self.abort = captioner.abort
        self.close = captioner.close

    @property
    def room(self) -> int:
        """See `BatchCaptioner`."""
        room = self._captioner.room
        if self._step_recorder.open is not None:
            self._step_recorder.open.rooms.append(room)
        return room

    def bind(self, send: Send, wake: Callable[[], None]) -> None:
        """See `BatchCaptioner`."""
        self._captioner.bind(send, wake)

    def submit(self, job: Job) -> None:
        """See `BatchCaptioner`."""
        self._step_recorder.job = job
        if self._step_recorder.open is not None:
            self._step_recorder.open.jobs.append(recorded_requests(job))
        self._captioner.submit(job)

    def outcomes(self) -> list[Outcome]:
        """See `BatchCaptioner`."""
        found = self._captioner.outcomes()
        if self._step_recorder.open is not None:
            self._step_recorder.open.ended.append([_ended(outcome) for outcome in found])
        return found


class RecordingSegmentationWorker:
    """`SegmentationWorker` whose answers are noted where the pipeline saw them."""

    def __init__(
        self, segmentation_worker: SegmentationWorker, step_recorder: StepRecorder
    ) -> None:
        self._segmentation_worker = segmentation_worker
        self._step_recorder = step_recorder
        self.start = segmentation_worker.start
        self.submit = segmentation_worker.submit
        self.close = segmentation_worker.close

    def results(self) -> list[KeyframeResult]:
        """See `SegmentationWorker`."""
        found = self._segmentation_worker.results()
        if self._step_recorder.open is not None:
            self._step_recorder.open.cuts.extend(found)
        return found


class RecordingEngine:
    """An `Engine` whose aborts and failures are noted."""

    def __init__(self, engine: Engine, step_recorder: StepRecorder) -> None:
        self._engine = engine
        self._step_recorder = step_recorder

    @property
    def info(self) -> EngineInfo:
        """See `Engine`."""
        return self._engine.info

    @property
    def times(self) -> StageTimes:
        """See `Engine`."""
        return self._engine.times

    def encode(self, image: Image) -> EncodedFrame:
        """See `Engine`."""
        try:
            return self._engine.encode(image)
        except Exception as error:
            self._step_recorder.step_log.batch(
                RecordedBatch(failure=(type(error).__name__, str(error)))
            )
            raise

    def caption(
        self,
        frame: EncodedFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """See `Engine`."""
        ids = _ids(self._step_recorder.job, regions)
        looks: Counter[int] = Counter()
        stopped: dict[int, int] = {}
        outputs, failure = 0, None

        def watched(row: int) -> bool:
            stop = aborted(row)
            if stop:
                stopped.setdefault(ids[row], looks[row])
            looks[row] += 1
            return stop

        try:
            for output in self._engine.caption(frame, regions, aborted=watched):
                yield output
                outputs += 1
        except Exception as error:
            failure = (type(error).__name__, str(error))
            raise
        finally:
            batch = RecordedBatch(rows=ids, stopped=stopped, failure=failure, outputs=outputs)
            self._step_recorder.step_log.batch(batch)


def _ended(outcome: Outcome) -> Ended:
    reason = outcome.event.reason if isinstance(outcome.event, CaptionAbort) else None
    return Ended(outcome.row.request.request_id, outcome.ended_ns, reason)


def _ids(job: Job | None, regions: Sequence[RegionInput]) -> tuple[int, ...]:
    """The requests of the engine's rows: the very mask arrays tell which."""
    rows = job.rows if job is not None else ()
    by_mask = {id(row.request.mask): row.request.request_id for row in rows}
    return tuple(by_mask.get(id(region.mask), -1) for region in regions)


def _answered(order: Order, turn: RecordedStep) -> Order:
    """The order, its answer noted in the turn that carries it out."""

    def reply(result: dict[str, Any]) -> None:
        turn.answers.append(result)
        order.reply(result)

    def fail(error: UrecaError) -> None:
        turn.answers.append(failure(error))
        order.fail(error)

    return replace(order, reply=reply, fail=fail)
