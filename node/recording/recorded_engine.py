"""The engine of a replay: it generates captions again, and ends them where the recorded ones
ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ureca.clock import Clock
from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import EncodedFrame, Engine, never, supports_attributes
from ureca.errors import EngineError
from ureca.node.captioning.batch import CaptionBatch, EngineRun
from ureca.node.captioning.batch_captioner import CaptionWriter
from ureca.node.config import NodeConfig
from ureca.node.recording.reader import Recording
from ureca.protocol.events import CaptionAbort, CaptionStart, EventSink


class ReplayWriter:
    """Writes a batch at once; when its captions were finished is part of the recorded steps."""

    def __init__(
        self, recording: Recording, engine: Engine, config: NodeConfig, clock: Clock
    ) -> None:
        self._engine = ReplayEngine(engine, recording)
        self._writer = CaptionWriter(self._engine, config.caption, clock)
        self._engine.stop = self._writer.abort

    def write(self, batch: CaptionBatch, send: EventSink) -> None:
        """Caption `batch`; requests that were aborted before it ran are aborted again."""
        for request_id in self._engine.expect(batch):
            self._writer.abort(request_id, self._engine.reasons[request_id])
        self._writer.write(batch, send)
        self._writer.finished()


class ReplayEngine:
    """An `Engine` that is aborted, and fails, where it was and did then."""

    def __init__(self, engine: Engine, recording: Recording) -> None:
        self._engine = engine
        self._runs = deque(recording.engine_runs)
        self._run = EngineRun()
        self._begun = {e.request_id for e in recording.events if isinstance(e, CaptionStart)}
        self.reasons = _abort_reasons(recording)
        self.stop: Callable[[int, str], None] = _nothing

    @property
    def info(self) -> EngineInfo:
        """See `Engine`."""
        return self._engine.info

    @property
    def attributes(self) -> tuple[str, ...]:
        """See `AttributeEngine`; empty where the engine answers none."""
        return self._engine.attributes if supports_attributes(self._engine) else ()

    @property
    def times(self) -> StageTimes:
        """See `Engine`; durations are no decisions."""
        return StageTimes()

    def expect(self, batch: CaptionBatch) -> list[int]:
        """Prepare the next batch; returns the requests that were aborted before it ran.

        A batch has no run if the engine never returned from it, if all of its requests were aborted
        before it ran, or if the file is cut. Then what has begun runs, and the rest is aborted.
        """
        ids = tuple(request.request_id for request in batch.requests)
        begun = {known for known in ids if known in self._begun or known not in self.reasons}
        if self._runs and self._is_of(self._runs[0], ids):
            self._run = self._runs.popleft()
            begun = set(self._run.rows) or begun
        else:
            self._run = EngineRun(rows=tuple(known for known in ids if known in begun))
        return [known for known in ids if known not in begun and known in self.reasons]

    def _is_of(self, run: EngineRun, ids: Sequence[int]) -> bool:
        """Whether `run` can be that of the batch of `ids`; one whose `encode` failed names no
        request, and its requests end in an error.
        """
        if run.rows:
            return not set(run.rows).isdisjoint(ids)
        return any(known not in self.reasons for known in ids)

    def encode(self, image: Image) -> EncodedFrame:
        """See `Engine`."""
        if not self._run.rows and self._run.failure:  # it failed here, before there were rows
            raise _failure(self._run.failure)
        return self._engine.encode(image)

    def caption(
        self,
        frame: EncodedFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """See `Engine`."""
        run, reads = self._run, [0] * len(regions)

        def stopped(row: int) -> bool:
            request_id = run.rows[row] if row < len(run.rows) else -1
            stop = reads[row] >= run.stopped.get(request_id, 1 << 62)
            reads[row] += 1
            if stop:
                self.stop(request_id, self.reasons.get(request_id, "aborted"))
            return stop

        outputs = iter(self._engine.caption(frame, regions, aborted=stopped))
        count = 0
        while run.failure is None or count < run.outputs:
            output = next(outputs, None)
            if output is None:
                return
            yield self._as_recorded(output)
            count += 1
        assert run.failure is not None
        raise _failure(run.failure)

    def _as_recorded(self, output: RowDelta | RowDone) -> RowDelta | RowDone:
        """A row that was given up while the engine hung is no caption, although it has words."""
        request_id = self._run.rows[output.row]
        if isinstance(output, RowDelta) or request_id not in self.reasons:
            return output
        self.stop(request_id, self.reasons[request_id])
        return replace(output, stop="aborted")


def _abort_reasons(recording: Recording) -> dict[int, str]:
    """Why captions were aborted; in a cut file the event may be all that is left of it."""
    events = (*recording.events, *recording.replies)
    aborted = {e.request_id: e.reason for e in events if isinstance(e, CaptionAbort)}
    ends = (one for step in recording.steps for one in step.finished_captions)
    return {**aborted, **{one.request_id: one.reason for one in ends if one.reason is not None}}


def _failure(recorded: tuple[str, str]) -> EngineError:
    """An error of the recorded name and text, so that what is said of it is the same."""
    kind: type[EngineError] = type(recorded[0], (EngineError,), {})
    return kind(recorded[1])


def _nothing(request_id: int, reason: str) -> None:
    """Before there is a writer."""
