"""From a frame to events: track, schedule, caption. No sockets, no sleeping, no threads of its own.

`step(frame, now_ns)` is the deterministic seam: with `testing.SyntheticSource`,
`testing.ScriptedEngine`, an `InlineCaptioner` and a `ManualClock` the whole node is a function of
its frames. One thread calls `step`, `tick` and `close`; `ask` may be called from any.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ureca.clock import Clock
from ureca.datatypes import Frame, RegionRequest, TrackSet, Trigger
from ureca.errors import RequestError, UrecaError
from ureca.events import AnyEvent, CaptionAbort, CaptionFinal, CaptionSame
from ureca.log import RateLimitedLog
from ureca.node.accounting import Books, End
from ureca.node.asks import Ask, AskQueue
from ureca.node.captioner import Captioner, Job, Outcome, Row
from ureca.node.config import NodeConfig
from ureca.node.prompts import Prompts
from ureca.node.regions import box_of, seed_mask
from ureca.node.scheduler import Scheduler, Urgency
from ureca.node.track_events import TrackReporter
from ureca.node.tracker import Tracker, Update

Emit = Callable[[AnyEvent], None]


def _nobody(event: AnyEvent) -> None:
    """The default receiver: events are only returned."""


@dataclass(slots=True)
class _Stream:
    """What is kept per stream."""

    tracker: Tracker
    scheduler: Scheduler
    reporter: TrackReporter
    frame: Frame
    tracks: TrackSet
    track_us: int = 0


class Pipeline:
    """The node's decisions, for all of its streams."""

    def __init__(
        self,
        config: NodeConfig,
        captioner: Captioner,
        *,
        clock: Clock,
        books: Books,
        prompts: Prompts | None = None,
        emit: Emit = _nobody,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._captioner = captioner
        self._clock = clock
        self._books = books
        self._prompts = prompts or {}
        self._emit = emit
        self._wake = wake
        self._streams: dict[str, _Stream] = {}
        self._asks = AskQueue(config.limits.max_asks)
        self._ids = itertools.count(1)
        self._new: deque[AnyEvent] = deque(maxlen=config.limits.outbox)
        self._asked_last = False
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        captioner.bind(self._send, wake)

    # --- what callers do -------------------------------------------------------------------------

    def step(self, frame: Frame, now_ns: int) -> list[AnyEvent]:
        """Take one frame through tracking and scheduling; returns the events since the last
        call.
        """
        self._absorb()
        stream = self._streams.get(frame.stream)
        if stream is None and len(self._streams) >= self._config.limits.max_streams:
            self._books.frame_dropped("busy")
            return self._events()
        started_ns = self._clock.now_ns()
        tracker = stream.tracker if stream else self._new_tracker()
        seeds = self._prompts.get(frame.seq, ())
        update = tracker.update(frame, seeds, now_ns=now_ns)
        stream = self._remember(frame, tracker, update)
        stream.track_us = (self._clock.now_ns() - started_ns) // 1000
        self._report(stream, now_ns)
        self._refused(update)
        self._schedule(now_ns)
        self._books.frame_processed()
        return self._events()

    def tick(self, now_ns: int) -> list[AnyEvent]:
        """Go on without a new frame: take in finished captions and start the next batch."""
        self._absorb()
        self._schedule(now_ns)
        return self._events()

    def ask(self, ask: Ask) -> None:
        """Queue a direct request. Raises `RequestError` (BUSY, GONE, NO_STREAM) instead of
        accepting it.
        """
        if ask.stream is not None and ask.stream not in self._streams:
            known = sorted(self._streams) or "none yet"
            raise RequestError(f"no stream {ask.stream!r}; there are {known}", code="NO_STREAM")
        self._asks.put(ask)
        self._books.request_in()
        self._wake()

    def is_idle(self) -> bool:
        """True when no caption is in flight and every visible region had its chance of one."""
        waiting = any(
            s.scheduler.in_flight or s.scheduler.uncaptioned for s in self._streams.values()
        )
        return self._captioner.room > 0 and not waiting and not len(self._asks)

    def settle(self) -> bool:
        """Take in what was captioned without starting more; True when nothing is in flight."""
        self._absorb()
        return self._captioner.room > 0

    def close(self, reason: str, now_ns: int) -> list[AnyEvent]:
        """End every request and every region; afterwards the books are closed."""
        for ask in self._asks.close():
            self._refuse(ask, RequestError("the node is shutting down", code="GONE"), "abort")
        self._captioner.close()
        self._absorb()
        for name, stream in self._streams.items():
            ended = stream.tracker.close(reason)
            stream.tracks = TrackSet(name, stream.frame.seq, stream.frame.captured_ns, ended)
            self._report(stream, now_ns)
        return self._events()

    def streams(self) -> dict[str, dict[str, int]]:
        """Per stream what the heartbeat says about it; may be called from any thread."""
        return {
            name: {
                "seq": stream.frame.seq,
                "width": stream.frame.width,
                "height": stream.frame.height,
                "regions": len(stream.tracks.tracks),
                "captured_ns": stream.frame.captured_ns,
            }
            for name, stream in list(self._streams.items())
        }

    # --- tracking --------------------------------------------------------------------------------

    def _new_tracker(self) -> Tracker:
        return Tracker(self._config.tracker, max_regions=self._config.limits.max_regions)

    def _remember(self, frame: Frame, tracker: Tracker, update: Update) -> _Stream:
        stream = self._streams.get(frame.stream)
        if stream is None:
            scheduler = Scheduler(
                self._config.scheduler, style=self._config.caption.style, ids=self._ids
            )
            reporter = TrackReporter(update_hz=self._config.publish.update_hz)
            stream = _Stream(tracker, scheduler, reporter, frame, update.tracks)
            self._streams[frame.stream] = stream
        stream.frame, stream.tracks = frame, update.tracks
        return stream

    def _report(self, stream: _Stream, now_ns: int) -> None:
        for event in stream.reporter.events(stream.tracks, clock=stream.frame.clock, now_ns=now_ns):
            self._send(event)
        for abort in stream.scheduler.observe(stream.tracks, now_ns=now_ns):
            self._captioner.abort(abort.request_id, abort.reason)

    def _refused(self, update: Update) -> None:
        self._books.region_refused(len(update.refused))
        for reason in update.refused:
            self._log.warning(reason[:40], f"a region is not followed: {reason}")

    # --- captions --------------------------------------------------------------------------------

    def _absorb(self) -> None:
        for outcome in self._captioner.outcomes():
            self._books.request_ended(_end(outcome))
            stream = self._streams.get(outcome.row.request.stream)
            if stream is not None and outcome.row.reply is None:
                has_caption = isinstance(outcome.event, CaptionFinal | CaptionSame)
                stream.scheduler.ended(
                    outcome.row.request, has_caption=has_caption, now_ns=outcome.ended_ns
                )

    def _schedule(self, now_ns: int) -> None:
        for ask in self._asks.take_late(now_ns):
            self._refuse(
                ask, RequestError("no caption before the deadline", code="DEADLINE"), "abort"
            )
        room = min(self._captioner.room, self._config.scheduler.max_batch)
        if room < 1:
            return
        best = self._most_urgent(now_ns)
        asks_first = len(self._asks) > 0 and (best is None or not self._asked_last)
        if asks_first or (best is None and len(self._asks)):
            self._asked_last = True
            self._start_asks(room, now_ns)
        elif best is not None:
            self._asked_last = False
            self._start_batch(self._streams[best[1]], room, now_ns)

    def _most_urgent(self, now_ns: int) -> tuple[Urgency, str] | None:
        keys = [(s.scheduler.urgency(now_ns=now_ns), name) for name, s in self._streams.items()]
        return min(((key, name) for key, name in keys if key is not None), default=None)

    def _start_batch(self, stream: _Stream, room: int, now_ns: int) -> None:
        requests = stream.scheduler.pick(stream.tracks, room=room, now_ns=now_ns)
        for _ in requests:
            self._books.request_in()
        self._submit(stream.frame, [Row(r) for r in requests], stream.track_us)

    def _start_asks(self, room: int, now_ns: int) -> None:
        """Direct requests about one picture; the picture's own regions fill the rest of the
        batch.
        """
        rows, frame, stream = [], None, None
        for ask in self._asks.take(room):
            stream = self._streams.get(ask.stream) if ask.stream else None
            frame = stream.frame if stream else ask.frame
            try:
                assert frame is not None  # `ask` refused unknown streams
                rows.append(Row(self._resolve(ask, frame, stream), ask.reply, ask.max_new_tokens))
            except UrecaError as error:
                self._refuse(ask, error, "error")
        if stream is not None and rows:
            for request in stream.scheduler.pick(
                stream.tracks, room=room - len(rows), now_ns=now_ns
            ):
                self._books.request_in()
                rows.append(Row(request))
        if frame is not None:
            self._submit(frame, rows, stream.track_us if stream else 0)

    def _resolve(self, ask: Ask, frame: Frame, stream: _Stream | None) -> RegionRequest:
        request_id = next(self._ids)
        if ask.seed is not None:
            mask, rid = seed_mask(ask.seed, frame.image), f"ask-{request_id}"
        else:
            tracks = stream.tracks.tracks if stream else ()
            found = next((t for t in tracks if t.rid == ask.rid and t.mask is not None), None)
            if found is None or found.mask is None:
                raise RequestError(f"no visible region {ask.rid!r}", code="NOT_FOUND")
            mask, rid = np.asarray(found.mask, np.bool_), found.rid
        return RegionRequest(
            request_id=request_id,
            stream=frame.stream,
            rid=rid,
            rev=0,
            frame_seq=frame.seq,
            mask=mask,
            box_xyxy_px=box_of(mask),
            trigger=Trigger.REQUEST,
            deadline_ns=ask.deadline_ns,
            style=ask.style,
        )

    def _submit(self, frame: Frame, rows: list[Row], track_us: int) -> None:
        if not rows:
            return
        self._captioner.submit(Job(frame, tuple(rows), track_us=track_us))
        self._absorb()  # an inline captioner is already done

    def _refuse(self, ask: Ask, error: UrecaError, end: End) -> None:
        self._books.request_ended(end)
        ask.fail(error)

    # --- events ----------------------------------------------------------------------------------

    def _send(self, event: AnyEvent) -> None:
        self._new.append(event)
        self._emit(event)

    def _events(self) -> list[AnyEvent]:
        return [self._new.popleft() for _ in range(len(self._new))]


def _end(outcome: Outcome) -> End:
    if isinstance(outcome.event, CaptionFinal):
        return "final"
    if isinstance(outcome.event, CaptionSame):
        return "same"
    return "abort" if isinstance(outcome.event, CaptionAbort) else "error"
