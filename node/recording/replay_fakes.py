"""Re-runs the engine of a replay; all other inputs come from the recording."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ureca.clock import ManualClock
from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import EncodedFrame, Engine, never
from ureca.errors import EngineError
from ureca.node.captioning.batch import Job, Outcome, Send
from ureca.node.captioning.captioner import CaptionWriter
from ureca.node.config import NodeConfig
from ureca.node.recording.reader import Recording
from ureca.node.recording.step_log import (
    Ended,
    RecordedBatch,
    RecordedRequest,
    RecordedStep,
    recorded_requests,
)
from ureca.node.segmentation.keyframe_segmenter import KeyframeRequest, KeyframeResult
from ureca.protocol.events import CaptionAbort


class ReplayCaptioner:
    """A `Captioner` that writes at once and lets the pipeline know when it was known then."""

    def __init__(
        self, recording: Recording, engine: Engine, config: NodeConfig, clock: ManualClock
    ) -> None:
        self.jobs: list[list[RecordedRequest]] = []
        self._engine = ReplayEngine(engine, recording.batches)
        self._writer = CaptionWriter(self._engine, config.caption, clock)
        self._engine.stop = self._writer.abort
        self._engine.reasons = _abort_reasons(recording)
        self._known: dict[int, Outcome] = {}
        self._turn = RecordedStep(n=0, call="tick", now_ns=0)
        self._ended: deque[list[Ended]] = deque()
        self._rooms: deque[int] = deque()
        self._room = 0
        self._send: Send = lambda _: None

    def begin(self, turn: RecordedStep) -> None:
        """The next turn begins."""
        self.jobs = []
        self._ended, self._rooms = deque(turn.ended), deque(turn.rooms)

    def bind(self, send: Send, wake: Callable[[], None]) -> None:
        """See `Captioner`; there is nobody to wake."""
        self._send = send

    @property
    def room(self) -> int:
        """See `Captioner`; what was read then."""
        if self._rooms:
            self._room = self._rooms.popleft()
        return self._room

    def submit(self, job: Job) -> None:
        """See `Captioner`."""
        self.jobs.append(recorded_requests(job))
        for request_id in self._engine.expect(job):
            self._writer.abort(request_id, self._engine.reasons[request_id])
        self._writer.write(job, self._send)
        for outcome in self._writer.outcomes():
            self._known[outcome.row.request.request_id] = outcome

    def abort(self, request_id: int, reason: str) -> None:
        """See `Captioner`; what it led to then was recorded with the batch."""

    def outcomes(self) -> list[Outcome]:
        """See `Captioner`; the ends that were seen then."""
        seen = self._ended.popleft() if self._ended else []
        known = [(self._known.pop(ended.request_id, None), ended) for ended in seen]
        return [replace(found, ended_ns=ended.ended_ns) for found, ended in known if found]

    def close(self) -> None:
        """Nothing is ever in flight."""


class ReplaySegmentationWorker:
    """`SegmentationWorker` that answer what, and when, a segmenter answered then: no weights are
    needed.
    """

    def __init__(self) -> None:
        self._cuts: list[KeyframeResult] = []

    def begin(self, turn: RecordedStep) -> None:
        """The next turn begins."""
        self._cuts = list(turn.cuts)

    def start(self) -> None:
        """See `SegmentationWorker`."""

    def submit(self, keyframe_request: KeyframeRequest) -> None:
        """See `SegmentationWorker`; what came of it was recorded."""

    def results(self) -> list[KeyframeResult]:
        """See `SegmentationWorker`."""
        cuts, self._cuts = self._cuts, []
        return cuts

    def close(self) -> None:
        """See `SegmentationWorker`."""


class ReplayEngine:
    """An `Engine` that is aborted, and fails, where it was and did then."""

    def __init__(self, engine: Engine, batches: Sequence[RecordedBatch]) -> None:
        self._engine = engine
        self._batches = deque(batches)
        self._batch = RecordedBatch()
        self.reasons: dict[int, str] = {}
        self.stop: Callable[[int, str], None] = _nothing

    @property
    def info(self) -> EngineInfo:
        """See `Engine`."""
        return self._engine.info

    @property
    def times(self) -> StageTimes:
        """See `Engine`; durations are no decisions."""
        return StageTimes()

    def expect(self, job: Job) -> list[int]:
        """Prepare the next batch; returns the requests that were aborted before it ran.

        Without a record of the batch (the file is cut, or the engine never returned) all rows run.
        """
        ids = tuple(row.request.request_id for row in job.rows)
        batch = self._batches[0] if self._batches else None
        if batch is None or (batch.rows and not set(batch.rows) & set(ids)):
            self._batch = RecordedBatch(rows=ids)
            return []
        self._batch = self._batches.popleft()
        started = batch.rows or ids
        return [known for known in ids if known not in started and known in self.reasons]

    def encode(self, image: Image) -> EncodedFrame:
        """See `Engine`."""
        if not self._batch.rows and self._batch.failure:  # it failed here, before there were rows
            raise _failure(self._batch.failure)
        return self._engine.encode(image)

    def caption(
        self,
        frame: EncodedFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """See `Engine`."""
        batch, looks = self._batch, [0] * len(regions)

        def stopped(row: int) -> bool:
            request_id = batch.rows[row] if row < len(batch.rows) else -1
            stop = looks[row] >= batch.stopped.get(request_id, 1 << 62)
            looks[row] += 1
            if stop:
                self.stop(request_id, self.reasons.get(request_id, "aborted"))
            return stop

        outputs = iter(self._engine.caption(frame, regions, aborted=stopped))
        count = 0
        while batch.failure is None or count < batch.outputs:
            output = next(outputs, None)
            if output is None:
                return
            yield self._as_then(output)
            count += 1
        assert batch.failure is not None
        raise _failure(batch.failure)

    def _as_then(self, output: RowDelta | RowDone) -> RowDelta | RowDone:
        """A row that was given up while the engine hung is no caption, although it has words."""
        request_id = self._batch.rows[output.row]
        if isinstance(output, RowDelta) or request_id not in self.reasons:
            return output
        self.stop(request_id, self.reasons[request_id])
        return replace(output, stop="aborted")


def _abort_reasons(recording: Recording) -> dict[int, str]:
    """Why captions were aborted; in a cut file the event may be all that is left of it."""
    events = (*recording.events, *recording.replies)
    told = {e.request_id: e.reason for e in events if isinstance(e, CaptionAbort)}
    looks = (look for turn in recording.turns for look in turn.ended)
    seen = {e.request_id: e.reason for look in looks for e in look if e.reason is not None}
    return {**told, **seen}


def _failure(recorded: tuple[str, str]) -> EngineError:
    """An error of the recorded name and text, so that what is said of it is the same."""
    kind: type[EngineError] = type(recorded[0], (EngineError,), {})
    return kind(recorded[1])


def _nothing(request_id: int, reason: str) -> None:
    """Before there is a writer."""
