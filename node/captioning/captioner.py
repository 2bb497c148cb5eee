"""Generates captions: one batch of regions of one frame at a time, on a thread of its own.

`CaptionWriter` processes a batch; `InlineCaptioner` runs it in the caller (replay and
tests) and `ThreadCaptioner` on a thread. Every row of a batch gets exactly one terminal event, also
when the engine fails.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ureca.clock import Clock
from ureca.datatypes import RegionInput, RegionRequest, RowDelta, RowDone
from ureca.engine import Engine
from ureca.native_threads import NativeThread
from ureca.node.captioning.batch import Job, Outcome, Row, Send
from ureca.node.captioning.caption_events import abort, delta, error, final, start
from ureca.node.captioning.output_filter import RejectedCaptions, find_rejection
from ureca.node.config import CaptionConfig
from ureca.protocol.events import AnyEvent, CaptionFinal, CaptionTerminal

_HANG_NS = 1_000_000_000
"""A row ends itself between two tokens. If it has not ended this long after its deadline, the next
reader of outcomes ends it.
"""
_JOIN_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Writing:
    """One batch while it is written."""

    job: Job
    send: Send
    started_ns: int
    open_rows: dict[int, Row] = field(default_factory=dict)
    first_text_ns: dict[int, int] = field(default_factory=dict)
    caption_ns: int = 0
    size: int = 0


class CaptionWriter:
    """Turns a job into events, with an engine that it alone uses."""

    def __init__(
        self,
        engine: Engine,
        config: CaptionConfig,
        clock: Clock,
        rejected_captions: RejectedCaptions | None = None,
    ) -> None:
        self._rejected_captions = rejected_captions or RejectedCaptions()
        self.info = engine.info
        self._engine = engine
        self._config = config
        self._clock = clock
        self._aborts: dict[int, str] = {}
        self._outcomes: deque[Outcome] = deque()
        self._writing: _Writing | None = None
        self._telling = threading.RLock()
        """Whoever ends a row tells it alone: the engine's thread, or the one that gave up on it."""

    def abort(self, request_id: int, reason: str) -> None:
        """Request the end of a caption; may be called from any thread."""
        self._aborts.setdefault(request_id, reason)

    def outcomes(self) -> list[Outcome]:
        """The rows that ended since the last call; those of an engine that hangs past their
        deadline are ended here.
        """
        self.give_up("deadline", before_ns=self._clock.now_ns() - _HANG_NS)
        return [self._outcomes.popleft() for _ in range(len(self._outcomes))]

    def give_up(self, reason: str, *, before_ns: int | None = None) -> None:
        """Abort the rows that the engine is writing, or those whose deadline was `before_ns`."""
        writing = self._writing
        if writing is None:
            return
        with self._telling:
            for index, row in list(writing.open_rows.items()):
                if before_ns is None or row.request.deadline_ns < before_ns:
                    del writing.open_rows[index]
                    self._end(writing, row, abort(row.request, reason))

    def write(self, job: Job, send: Send) -> None:
        """Caption all rows of `job`. Never raises: a failing engine ends all open rows with
        `caption.error`.
        """
        self._forget_ended(job)
        writing = _Writing(job=job, send=send, started_ns=self._clock.now_ns())
        for row in job.rows:
            reason = self._reason(row.request)
            if reason is not None:
                self._end(writing, row, abort(row.request, reason))
            else:
                writing.open_rows[len(writing.open_rows)] = row
                _tell(writing, row, start(row.request, job.frame))
        try:
            self._writing = writing
            if writing.open_rows:
                self._run(writing)
            failure = "the engine ended without finishing this region"
        except Exception as failed:  # noqa: BLE001  (an engine may fail in any way; the node lives on)
            _log.exception("the engine failed on a batch of %d regions", len(job.rows))
            failure = f"{type(failed).__name__}: {failed!s:.200}"
        with self._telling:
            self._writing = None
            for row in writing.open_rows.values():
                self._end(writing, row, error(row.request, "ENGINE", failure))
        for row in job.rows:
            self._aborts.pop(row.request.request_id, None)

    def _forget_ended(self, job: Job) -> None:
        """Drop aborts that came after their request had ended: ids rise, one job at a time."""
        oldest = min((row.request.request_id for row in job.rows), default=0)
        for request_id in [known for known in tuple(self._aborts) if known < oldest]:
            self._aborts.pop(request_id, None)

    def _run(self, writing: _Writing) -> None:
        rows = dict(writing.open_rows)
        writing.size = len(rows)
        inputs = [self._input(row) for row in rows.values()]
        encoded = self._engine.encode(writing.job.frame.image)
        writing.caption_ns = self._clock.now_ns()
        gone = lambda index: self._is_gone(writing, index, rows[index].request)  # noqa: E731
        for out in self._engine.caption(encoded, inputs, aborted=gone):
            with self._telling:
                self._take(writing, out)

    def _take(self, writing: _Writing, out: RowDelta | RowDone) -> None:
        """What the engine says of a row; nothing is told of rows that have ended."""
        row = writing.open_rows.get(out.row)
        if row is None:
            return
        if isinstance(out, RowDelta):
            writing.first_text_ns.setdefault(out.row, self._clock.now_ns())
            _tell(writing, row, delta(row.request, out))
        else:
            self._end(writing, row, self._terminal(writing, row, out))
            del writing.open_rows[out.row]

    def _is_gone(self, writing: _Writing, index: int, request: RegionRequest) -> bool:
        return index not in writing.open_rows or self._reason(request) is not None

    def _input(self, row: Row) -> RegionInput:
        wanted = row.request.max_new_tokens or self._config.max_new_tokens
        limit = min(wanted, self.info.max_new_tokens)
        return RegionInput(row.request.mask, style=row.request.style, max_new_tokens=limit)

    def _reason(self, request: RegionRequest) -> str | None:
        """Why the request should stop now; None when it should go on."""
        if self._clock.now_ns() > request.deadline_ns:
            self.abort(request.request_id, "deadline")
        return self._aborts.get(request.request_id)

    def _terminal(self, writing: _Writing, row: Row, done: RowDone) -> CaptionTerminal:
        if done.stop == "aborted":
            reason = self._aborts.get(row.request.request_id, "aborted")
            return abort(row.request, reason)
        problem = find_rejection(done, self._config)
        if problem is not None:
            self._rejected_captions.put(row.request, done, problem)
            return error(row.request, "BAD_OUTPUT", problem.words)
        return self._final(writing, row.request, done)

    def _final(self, writing: _Writing, request: RegionRequest, done: RowDone) -> CaptionFinal:
        now_ns, frame = self._clock.now_ns(), writing.job.frame
        first_ns = writing.first_text_ns.get(done.row, now_ns)
        since_receipt_us = (writing.started_ns - frame.received_ns) // 1000
        durations_us = {
            **self._engine.times.us,  # read now: `region` is known once the rows have begun
            "track": writing.job.track_us,
            "wait": max(0, since_receipt_us - writing.job.track_us),
            "ttft": (first_ns - writing.started_ns) // 1000,
            "gen": (now_ns - writing.caption_ns) // 1000,
        }
        if frame.clock == self._clock.name:
            durations_us["link"] = max(0, frame.received_ns - frame.captured_ns) // 1000
        return final(
            request,
            frame,
            done,
            info=self.info,
            ttl_ms=request.ttl_ms or self._config.ttl_ms,
            durations_us=durations_us,
            batch={"n": writing.size, "pos": done.row},
        )

    def _end(self, writing: _Writing, row: Row, event: CaptionTerminal) -> None:
        _tell(writing, row, event)  # type: ignore[arg-type]
        self._outcomes.append(Outcome(row, event, self._clock.now_ns()))


class InlineCaptioner:
    """Writes in the caller: the whole node becomes a function of its frames."""

    def __init__(self, writer: CaptionWriter) -> None:
        self._writer = writer
        self._send: Send | None = None
        self.room = writer.info.max_regions
        self.abort = writer.abort
        self.outcomes = writer.outcomes

    def bind(self, send: Send, wake: Callable[[], None]) -> None:
        """See `Captioner`; there is nobody to wake."""
        self._send = send

    def submit(self, job: Job) -> None:
        """See `Captioner`."""
        assert self._send is not None
        self._writer.write(job, self._send)

    def close(self) -> None:
        """Nothing is ever in flight."""


class ThreadCaptioner:
    """Writes on the thread `ureca-caption`."""

    def __init__(self, writer: CaptionWriter) -> None:
        self._writer = writer
        self._jobs: queue.Queue[Job | None] = queue.Queue(maxsize=2)
        self._current: Job | None = None
        self._closing = False
        self._send: Send | None = None
        self._wake: Callable[[], None] = lambda: None
        self._thread = NativeThread(target=self._loop, name="ureca-caption")
        self.abort = writer.abort
        self.outcomes = writer.outcomes

    @property
    def room(self) -> int:
        """See `Captioner`."""
        return 0 if self._current is not None or self._closing else self._writer.info.max_regions

    def bind(self, send: Send, wake: Callable[[], None]) -> None:
        """See `Captioner`; starts the thread."""
        self._send, self._wake = send, wake
        self._thread.start()

    def submit(self, job: Job) -> None:
        """See `Captioner`."""
        assert self.room > 0, "one batch in flight per engine"
        self._current = job
        self._jobs.put_nowait(job)

    def close(self) -> None:
        """See `Captioner`. An engine that does not return is left behind, its rows aborted."""
        if self._closing:
            return
        self._closing = True
        current = self._current
        for row in current.rows if current is not None else ():
            self._writer.abort(row.request.request_id, "shutdown")
        self._jobs.put(None)
        if not self._thread.end(_JOIN_S):
            _log.error("the engine did not return from its batch; its thread is left behind")
            self._writer.give_up("shutdown")

    def _loop(self) -> None:
        assert self._send is not None
        while (job := self._jobs.get()) is not None:
            self._writer.write(job, self._send)
            self._current = None
            self._wake()


def _tell(writing: _Writing, row: Row, event: AnyEvent) -> None:
    (row.reply or writing.send)(event)
