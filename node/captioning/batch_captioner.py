"""Generates captions: one batch of regions of one frame at a time, on a thread of its own.

`CaptionWriter` processes a batch; `InlineCaptioner` runs it in the caller (tests) and
`ThreadCaptioner` on a thread. Every request of a batch gets exactly one terminal event, also when
the engine fails.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ureca.attributes import AttributeAnswer, complete_answers, compose_dense
from ureca.clock import Clock
from ureca.datatypes import RegionInput, RegionRequest, RowDelta, RowDone
from ureca.engine import Engine, is_remote, supports_attributes
from ureca.errors import EngineError
from ureca.log import RateLimitedLog
from ureca.native_threads import NativeThread, ends_the_process
from ureca.node.captioning.batch import (
    CaptionBatch,
    CaptionLog,
    EngineRun,
    FinishedCaption,
)
from ureca.node.captioning.caption_choice import CaptionChooser
from ureca.node.captioning.caption_events import abort, delta, error, final, start
from ureca.node.captioning.grounding import FinishedGrounding, GroundingRequest, TextGrounder
from ureca.node.captioning.output_filter import RejectedCaptions, find_rejection
from ureca.node.captioning.person_words import neutralise, neutralise_answers
from ureca.node.config import CaptionConfig
from ureca.protocol.events import AnyEvent, CaptionAbort, CaptionFinal, CaptionTerminal, EventSink

_HANG_NS = 1_000_000_000
"""A row ends itself between two tokens. If it has not ended this long after its deadline, the next
reader of finished captions ends it.
"""
_JOIN_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Writing:
    """One batch while it is written."""

    batch: CaptionBatch
    send: EventSink
    started_ns: int
    rows: list[RegionRequest] = field(default_factory=list)
    """The requests in the order of the engine's rows."""
    open_rows: dict[int, RegionRequest] = field(default_factory=dict)
    first_text_ns: dict[int, int] = field(default_factory=dict)
    caption_ns: int = 0
    is_encoded: bool = False
    abort_reads: Counter[int] = field(default_factory=Counter)
    stopped: dict[int, int] = field(default_factory=dict)
    waiting: dict[int, RowDone] = field(default_factory=dict)
    """Captions of parts by row, until that of the whole has ended."""
    outputs: int = 0

    raw: dict[int, str] = field(default_factory=dict)
    """The text so far of rows whose words may have to be replaced."""

    def follows(self, request: RegionRequest) -> bool:
        """Whether the request is about a followed region, not a client's question."""
        return request.request_id not in self.batch.replies

    def followed(self) -> list[RegionRequest]:
        """The rows about followed regions."""
        return [request for request in self.rows if self.follows(request)]

    def tell(self, request: RegionRequest, event: AnyEvent) -> None:
        """Send `event` to the client of the request, or to all subscribers."""
        self.batch.replies.get(request.request_id, self.send)(event)

    def run(self, failure: BaseException | None) -> EngineRun:
        """What a replay needs of this batch."""
        error = None if failure is None else (type(failure).__name__, str(failure))
        rows = tuple(r.request_id for r in self.rows) if self.is_encoded else ()
        return EngineRun(rows=rows, stopped=self.stopped, failure=error, outputs=self.outputs)


class CaptionWriter:
    """Turns a batch into events, with an engine that it alone uses."""

    def __init__(
        self,
        engine: Engine,
        config: CaptionConfig,
        clock: Clock,
        rejected_captions: RejectedCaptions | None = None,
        log: CaptionLog | None = None,
    ) -> None:
        self._rejected_captions = rejected_captions or RejectedCaptions()
        self._notes = log
        self.info = engine.info
        self.attributes = engine.attributes if supports_attributes(engine) else ()
        self._engine = engine
        self._config = config
        self._clock = clock
        self._chooser = CaptionChooser(config)
        self._aborts: dict[int, str] = {}
        self._finished: deque[FinishedCaption] = deque()
        self._writing: _Writing | None = None
        self._log = RateLimitedLog(_log, clock)
        self._telling = threading.RLock()
        """Whoever ends a row tells it alone: the engine's thread, or the one that gave up on it."""

    def abort(self, request_id: int, reason: str) -> None:
        """Request the end of a caption; may be called from any thread."""
        self._aborts.setdefault(request_id, reason)

    def finished(self) -> tuple[FinishedCaption, ...]:
        """The requests that ended since the last call; those of an engine that hangs past their
        deadline are ended here.
        """
        self.give_up("deadline", before_ns=self._clock.now_ns() - _HANG_NS)
        return tuple(self._finished.popleft() for _ in range(len(self._finished)))

    def give_up(self, reason: str, *, before_ns: int | None = None) -> None:
        """Abort the rows that the engine is writing, or those whose deadline was `before_ns`."""
        writing = self._writing
        if writing is None:
            return
        with self._telling:
            for index, request in list(writing.open_rows.items()):
                if before_ns is None or request.deadline_ns < before_ns:
                    del writing.open_rows[index]
                    self._end(writing, request, abort(request, reason))

    def write(self, batch: CaptionBatch, send: EventSink) -> None:
        """Caption all requests of `batch`. Never raises: a failing engine ends all open ones with
        `caption.error`.
        """
        self._forget_ended(batch)
        writing = _Writing(batch, send, started_ns=self._clock.now_ns())
        for request in batch.requests:
            reason = self._reason(request)
            if reason is not None:
                self._end(writing, request, abort(request, reason))
            else:
                writing.open_rows[len(writing.rows)] = request
                writing.rows.append(request)
                writing.tell(request, start(request, batch.frame))
        self._chooser.begin(writing.followed(), batch.frame.captured_ns)
        failed = self._run(writing)
        words = "the engine ended without finishing this region"
        if failed is not None:
            words = f"{type(failed).__name__}: {failed!s:.200}"
        with self._telling:
            for row, done in writing.waiting.items():
                self._finish(writing, row, done)
            self._writing = None
            for request in writing.open_rows.values():
                self._end(writing, request, error(request, "ENGINE", words))
        for request in batch.requests:
            self._aborts.pop(request.request_id, None)

    def _forget_ended(self, batch: CaptionBatch) -> None:
        """Drop aborts that came after their request had ended: ids rise, one batch at a time."""
        oldest = min((request.request_id for request in batch.requests), default=0)
        for request_id in [known for known in tuple(self._aborts) if known < oldest]:
            self._aborts.pop(request_id, None)

    def _run(self, writing: _Writing) -> BaseException | None:
        """Run the engine on the open rows; returns what it raised."""
        if not writing.rows:
            return None
        self._writing = writing
        failed: BaseException | None = None
        try:
            inputs = [self._input(request) for request in writing.rows]
            encoded = self._engine.encode(writing.batch.frame.image)
            writing.caption_ns, writing.is_encoded = self._clock.now_ns(), True
            stops = lambda row: self._must_stop(writing, row)  # noqa: E731
            for out in self._engine.caption(encoded, inputs, aborted=stops):
                with self._telling:
                    self._take(writing, out)
                writing.outputs += 1
        except BaseException as error:  # (an engine may fail in any way, `SystemExit` among them)
            if ends_the_process(error):
                raise
            text = f"the engine failed on a batch of {len(writing.rows)} regions"
            if is_remote(self._engine) and isinstance(error, EngineError):  # no fault of ours
                self._log.warning(type(error).__name__, f"{text}: {error}")
            else:
                self._log.warning(type(error).__name__, text, error=error)
            failed = error
        if self._notes is not None:
            self._notes.engine_run(writing.run(failed))
        return failed

    def _take(self, writing: _Writing, out: RowDelta | RowDone) -> None:
        """What the engine says of a row; nothing is told of rows that have ended."""
        request = writing.open_rows.get(out.row)
        if request is None:
            return
        if isinstance(out, RowDelta):
            writing.first_text_ns.setdefault(out.row, self._clock.now_ns())
            self._tell_delta(writing, request, out)
        elif self._must_wait(writing, request, out):
            writing.waiting[out.row] = out
        else:
            self._finish(writing, out.row, out)

    def _tell_delta(self, writing: _Writing, request: RegionRequest, gained: RowDelta) -> None:
        """Sent text cannot be taken back, so what holds words of sex or age is not sent."""
        if self._config.person_words == "full":
            writing.tell(request, delta(request, gained))
            return
        raw = writing.raw.get(gained.row, "")[: gained.offset] + gained.text
        writing.raw[gained.row] = raw
        if neutralise(raw) == raw:
            writing.tell(request, delta(request, gained))

    def _must_wait(self, writing: _Writing, request: RegionRequest, done: RowDone) -> bool:
        """Whether the caption of a part must wait for that of the whole, in the same batch."""
        if not writing.follows(request) or done.stop in {"aborted", "non_finite"}:
            return False
        open_regions = {
            (r.stream, r.rid)
            for row, r in writing.open_rows.items()
            if row not in writing.waiting and r is not request and writing.follows(r)
        }
        return self._chooser.find_whole(request, done, open_regions) in open_regions

    def _finish(self, writing: _Writing, row: int, done: RowDone) -> None:
        """End a row with its last event, unless somebody gave it up before."""
        request = writing.open_rows.get(row)
        if request is not None:
            self._end(writing, request, self._terminal(writing, request, done))
            del writing.open_rows[row]

    def _must_stop(self, writing: _Writing, row: int) -> bool:
        """The engine's question between two tokens."""
        request = writing.rows[row]
        stop = row not in writing.open_rows or self._reason(request) is not None
        if stop:
            writing.stopped.setdefault(request.request_id, writing.abort_reads[row])
        writing.abort_reads[row] += 1
        return stop

    def _input(self, request: RegionRequest) -> RegionInput:
        wanted = request.max_new_tokens or self._config.max_new_tokens
        limit = min(wanted, self.info.max_new_tokens)
        asked = tuple(self.attributes) if request.is_dense else request.attributes
        return RegionInput(request.mask, request.style, limit, attributes=asked)

    def _reason(self, request: RegionRequest) -> str | None:
        """Why the request should stop now; None when it should go on."""
        if self._clock.now_ns() > request.deadline_ns:
            self.abort(request.request_id, "deadline")
        return self._aborts.get(request.request_id)

    def _terminal(
        self, writing: _Writing, request: RegionRequest, done: RowDone
    ) -> CaptionTerminal:
        if done.stop == "aborted":
            return abort(request, self._aborts.get(request.request_id, "aborted"))
        problem = find_rejection(done, self._config)
        if problem is not None:
            self._rejected_captions.put(request, done, problem)
            return error(request, "BAD_OUTPUT", problem.words)
        if writing.follows(request):
            done = self._chooser.choose(request, done, self._chooser.find_whole(request, done))
        done = self._add_clauses(done) if request.is_dense else done
        if self._config.person_words == "neutral":
            done = replace(done, text=neutralise(done.text))
        return self._final(writing, request, done)

    def _add_clauses(self, done: RowDone) -> RowDone:
        off = self._config.attributes_off
        told = [answer for answer in done.attributes if answer.name not in off]
        return replace(done, text=compose_dense(done.text, told))

    def _final(self, writing: _Writing, request: RegionRequest, done: RowDone) -> CaptionFinal:
        now_ns, batch, frame = self._clock.now_ns(), writing.batch, writing.batch.frame
        first_ns = writing.first_text_ns.get(done.row, now_ns)
        since_receipt_us = (writing.started_ns - frame.received_ns) // 1000
        durations_us = {
            **self._engine.times.us,  # read now: `region` is known once the rows have begun
            "track": batch.track_us,
            "wait": max(0, since_receipt_us - batch.track_us),
            "ttft": (first_ns - writing.started_ns) // 1000,
            "gen": (now_ns - writing.caption_ns) // 1000,
        }
        if frame.clock == self._clock.name:
            durations_us["link"] = max(0, frame.received_ns - frame.captured_ns) // 1000
        return final(
            request,
            frame,
            done,
            info=done.writer or self.info,
            ttl_ms=request.ttl_ms or self._config.ttl_ms,
            min_confidence=(
                self._config.min_confidence
                if request.min_confidence is None
                else request.min_confidence
            ),
            durations_us=durations_us,
            batch={"n": len(writing.rows), "pos": done.row},
            attributes=self._answers(request, done),
        )

    def _answers(self, request: RegionRequest, done: RowDone) -> tuple[AttributeAnswer, ...]:
        """One answer to each attribute that was asked for."""
        if not request.attributes:
            return ()
        off = self._config.attributes_off
        answers = done.attributes
        if self._config.person_words == "neutral":
            answers = neutralise_answers(answers)
        return complete_answers(request.attributes, answers, off=off)

    def _end(self, writing: _Writing, request: RegionRequest, event: CaptionTerminal) -> None:
        writing.tell(request, event)  # type: ignore[arg-type]
        if self._notes is not None and request.request_id in writing.batch.replies:
            self._notes.direct_reply(event)
        self._finished.append(_finished(event, request.request_id, self._clock.now_ns()))


def _finished(event: CaptionTerminal, request_id: int, now_ns: int) -> FinishedCaption:
    if isinstance(event, CaptionAbort):
        return FinishedCaption(request_id, "abort", now_ns, event.reason)
    is_final = isinstance(event, CaptionFinal)
    return FinishedCaption(request_id, "final" if is_final else "error", now_ns)


class InlineCaptioner:
    """Writes in the caller: the whole node becomes a function of its frames."""

    def __init__(self, writer: CaptionWriter, grounder: TextGrounder | None = None) -> None:
        self._writer = writer
        self._grounder = grounder
        self._send: EventSink | None = None
        self.can_ground = grounder is not None
        self.attributes = writer.attributes
        self.free_slots = writer.info.max_regions
        self.abort = writer.abort
        self.finished = writer.finished

    def start(self, send: EventSink, wake: Callable[[], None]) -> None:
        """See `BatchCaptioner`; there is nobody to wake."""
        self._send = send

    def submit(self, batch: CaptionBatch) -> None:
        """See `BatchCaptioner`."""
        assert self._send is not None
        self._writer.write(batch, self._send)

    def submit_grounding(self, request: GroundingRequest) -> None:
        """See `BatchCaptioner`."""
        assert self._grounder is not None
        self._grounder.ground(request)

    def finished_groundings(self) -> tuple[FinishedGrounding, ...]:
        """See `BatchCaptioner`."""
        return () if self._grounder is None else self._grounder.finished()

    def close(self) -> None:
        """Nothing is ever in flight."""


class ThreadCaptioner:
    """Writes on the thread `ureca-caption`."""

    def __init__(self, writer: CaptionWriter, grounder: TextGrounder | None = None) -> None:
        self._writer = writer
        self._grounder = grounder
        self.can_ground = grounder is not None
        self.attributes = writer.attributes
        self._work: queue.Queue[CaptionBatch | GroundingRequest | None] = queue.Queue(maxsize=2)
        self._current: CaptionBatch | GroundingRequest | None = None
        self._closing = False
        self._send: EventSink | None = None
        self._wake: Callable[[], None] = lambda: None
        self._thread = NativeThread(target=self._loop, name="ureca-caption")
        self.abort = writer.abort
        self.finished = writer.finished

    @property
    def free_slots(self) -> int:
        """See `BatchCaptioner`."""
        return 0 if self._current is not None or self._closing else self._writer.info.max_regions

    def start(self, send: EventSink, wake: Callable[[], None]) -> None:
        """See `BatchCaptioner`; starts the thread."""
        self._send, self._wake = send, wake
        self._thread.start()

    def submit(self, batch: CaptionBatch) -> None:
        """See `BatchCaptioner`."""
        self._submit(batch)

    def submit_grounding(self, request: GroundingRequest) -> None:
        """See `BatchCaptioner`."""
        self._submit(request)

    def _submit(self, work: CaptionBatch | GroundingRequest) -> None:
        assert self.free_slots > 0, "one batch or grounding in flight per engine"
        self._current = work
        self._work.put_nowait(work)

    def finished_groundings(self) -> tuple[FinishedGrounding, ...]:
        """See `BatchCaptioner`."""
        return () if self._grounder is None else self._grounder.finished()

    def close(self) -> None:
        """See `BatchCaptioner`. An engine that does not return is left behind, its rows aborted."""
        if self._closing:
            return
        self._closing = True
        current = self._current
        for request in current.requests if isinstance(current, CaptionBatch) else ():
            self._writer.abort(request.request_id, "shutdown")
        self._work.put(None)
        if not self._thread.end(_JOIN_S):
            _log.error("the engine did not return from its batch; its thread is left behind")
            self._writer.give_up("shutdown")

    def _loop(self) -> None:
        assert self._send is not None
        while (work := self._work.get()) is not None:
            if isinstance(work, CaptionBatch):
                self._writer.write(work, self._send)
            else:
                assert self._grounder is not None  # nothing is submitted where `can_ground` is not
                self._grounder.ground(work)
            self._current = None
            self._wake()
