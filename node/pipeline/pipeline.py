"""From a frame to events: track, schedule, caption. No sockets, no sleeping, no threads of its own.

`step(frame, now_ns)` is the deterministic test interface: with `testing.SyntheticSource`,
`testing.ScriptedEngine`, an `InlineCaptioner` and a `ManualClock` the whole node is a function of
its frames. One thread calls `step`, `tick` and `close`; `ask` may be called from any.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence

from ureca.clock import Clock
from ureca.datatypes import Frame, Refusal, TrackSet
from ureca.errors import RequestError, UrecaError
from ureca.log import RateLimitedLog
from ureca.node.captioning.batch import BatchCaptioner, Job, Row
from ureca.node.captioning.caption_events import refused_region
from ureca.node.config import NodeConfig
from ureca.node.counters import End, NodeCounters
from ureca.node.pipeline.keyframe_selection import Keyframes
from ureca.node.pipeline.region_commands import Orders
from ureca.node.pipeline.request_queue import Ask, AskQueue, Key, Order, Waiting
from ureca.node.pipeline.stall_detection import StallDetector, health_issues
from ureca.node.pipeline.stream import StepEvents, Stream, resolve
from ureca.node.scheduling.stream_arbiter import ASKS, Halt, Turns
from ureca.node.segmentation.worker import SegmentationWorker
from ureca.node.sources.prompt_file import Prompts
from ureca.protocol.events import AnyEvent, CaptionFinal

Emit = Callable[[AnyEvent], None]


def _nobody(event: AnyEvent) -> None:
    """The default receiver: events are only returned."""


class Pipeline:
    """The node's decisions, for all of its streams."""

    def __init__(
        self,
        config: NodeConfig,
        captioner: BatchCaptioner,
        *,
        clock: Clock,
        books: NodeCounters,
        prompts: Prompts | None = None,
        segmentation_worker: SegmentationWorker | None = None,
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
        self._streams: dict[str, Stream] = {}
        self._asks = AskQueue(config.limits.max_asks)
        self._orders: Waiting[Order] = Waiting(config.limits.max_orders)
        self._desk = Orders(self._streams, tell=self._tell, cancel=self._cancel, halt=self._halt)
        self._direct: dict[Key, int] = {}
        self._hang = StallDetector(clock)
        self._ids = itertools.count(1)
        self._new: deque[AnyEvent] = deque(maxlen=config.limits.outbox)
        self._turns = Turns()
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        captioner.bind(self._send, wake)
        self._keyframes = Keyframes(segmentation_worker, self._streams, clock)

    # --- what callers do -------------------------------------------------------------------------

    def step(self, frame: Frame, now_ns: int) -> list[AnyEvent]:
        """Track and schedule on one frame; returns the events since the last call."""
        self._absorb()
        self._keyframes.take()
        self._carry_out(now_ns)
        stream = self._streams.get(frame.stream)
        if stream is None and len(self._streams) >= self._config.limits.max_streams:
            self._books.frame_dropped("busy")
            return self._events()
        stream = stream or Stream(frame, self._config, self._ids)
        started_ns = self._clock.now_ns()
        prompts = (*self._prompts.get(frame.seq, ()), *frame.prompts)
        news = stream.follow(frame, prompts, now_ns=now_ns)
        stream.track_us = (self._clock.now_ns() - started_ns) // 1000
        self._streams[frame.stream] = stream
        self._keyframes.offer(stream, now_ns)
        self._tell(news)
        self._refused(stream, news.refused, now_ns)
        self._renew(stream, now_ns)
        self._schedule(now_ns)
        self._books.frame_processed()
        return self._events()

    def tick(self, now_ns: int) -> list[AnyEvent]:
        """Go on without a new frame: take in finished captions and start the next batch."""
        self._absorb()
        self._carry_out(now_ns)
        self._schedule(now_ns)
        return self._events()

    def ask(self, ask: Ask) -> None:
        """Queue a direct request. Raises `RequestError` (BUSY, GONE, NO_STREAM) instead of
        accepting it.
        """
        if ask.stream is not None and ask.stream not in self._streams:
            known = sorted(self._streams) or "none yet"
            raise RequestError(f"no stream {ask.stream!r}; there are {known}", code="NO_STREAM")
        if self.halt == "draining":
            raise RequestError("the node drains: ask after `resume`", code="GONE")
        self._asks.put(ask)
        self._books.request_in()
        self._wake()

    def order(self, order: Order) -> None:
        """Queue a request that changes regions; raises `RequestError` (BUSY, GONE) instead."""
        self._orders.put(order)
        self._wake()

    def is_idle(self) -> bool:
        """True when no caption is in flight and every visible region had its chance of one."""
        waiting = any(
            s.scheduler.in_flight or (s.scheduler.uncaptioned and not self.halt)
            for s in self._streams.values()
        )
        return self._captioner.room > 0 and not waiting and not len(self._asks)

    def settle(self) -> bool:
        """Take in what was captioned without starting more; True when nothing is in flight."""
        self._absorb()
        return self._captioner.room > 0

    def close(self, reason: str, now_ns: int) -> list[AnyEvent]:
        """End every request and every region; afterwards nothing is in flight."""
        for ask in self._asks.close():
            self._refuse(ask, RequestError("the node is shutting down", code="GONE"), "abort")
        for order in self._orders.close():
            order.fail(RequestError("the node is shutting down", code="GONE"))
        self._captioner.close()
        self._absorb()
        for stream in self._streams.values():
            self._tell(stream.close(reason, now_ns=now_ns))
        return self._events()

    def streams(self) -> dict[str, dict[str, int]]:
        """The heartbeat data of each stream; may be called from any thread."""
        return {name: stream.facts() for name, stream in list(self._streams.items())}

    def views(self) -> dict[str, tuple[Frame, TrackSet]]:
        """Per stream its newest frame and its regions; may be called from any thread."""
        return {name: (stream.frame, stream.tracks) for name, stream in list(self._streams.items())}

    def reasons(self) -> list[str]:
        """Why captions are not what they should be; may be called from any thread."""
        found = health_issues(list(self._streams.items()), hangs=self._hang.is_on)
        return found + self._keyframes.reasons(self._clock.now_ns())

    @property
    def halt(self) -> Halt:
        """The run mode set by `pause` and `drain`; empty while captions are generated."""
        return self._turns.halt

    def _halt(self, halt: Halt) -> int:
        """Halt or go on; returns how many caption requests are open."""
        self._turns.halt = halt
        return self._books.balance().requests_in_flight

    def _is_stuck(self) -> bool:
        """The captioner is busy although every request has ended."""
        in_flight = any(stream.scheduler.in_flight for stream in self._streams.values())
        return self._captioner.room < 1 and not in_flight and not self._direct

    # --- regions ---------------------------------------------------------------------------------

    def _tell(self, news: StepEvents) -> None:
        for event in news.events:
            self._send(event)
        for abort in news.aborts:
            self._captioner.abort(abort.request_id, abort.reason)

    def _refused(self, stream: Stream, refused: Sequence[Refusal], now_ns: int) -> None:
        """Each refused region is counted, and some are reported: it ends in an error, as every
        request does.
        """
        self._books.region_refused(len(refused))
        for refusal in stream.refusals.due(refused, now_ns=now_ns):
            self._log.warning(refusal.reason[:40], f"a region is refused: {refusal.reason}")
            self._books.request_in()
            self._books.request_ended("error")
            self._send(refused_region(refusal, stream.frame.stream, next(self._ids)))

    # --- orders ----------------------------------------------------------------------------------

    def _carry_out(self, now_ns: int) -> None:
        orders = self._orders.take()
        for order in orders:
            self._desk.carry_out(order, now_ns=now_ns)
        for stream in self._streams.values() if orders else ():
            self._keyframes.offer(stream, now_ns)  # what was pointed at is on this very frame

    def _cancel(self, key: Key) -> bool:
        """Stop a direct request wherever it is; False when there is none (any more)."""
        ask = self._asks.remove(key)
        if ask is not None:
            self._refuse(ask, RequestError("cancelled", code="GONE"), "abort")
        elif key in self._direct:
            self._captioner.abort(self._direct[key], "cancelled")
        return ask is not None or key in self._direct

    # --- captions --------------------------------------------------------------------------------

    def _absorb(self) -> None:
        for outcome in self._captioner.outcomes():
            self._books.request_ended(outcome.end)
            self._direct.pop(outcome.row.key, None)
            stream = self._streams.get(outcome.row.request.stream)
            if stream is not None and outcome.row.reply is None:
                has_caption = isinstance(outcome.event, CaptionFinal)
                stream.scheduler.ended(
                    outcome.row.request, has_caption=has_caption, now_ns=outcome.ended_ns
                )
        self._hang.look(is_stuck=self._is_stuck())

    def _renew(self, stream: Stream, now_ns: int) -> None:
        """Only a new frame can say that a caption still holds: `tick` renews nothing."""
        for event in stream.renew(now_ns=now_ns):
            self._books.request_in()
            self._books.request_ended("same")
            self._send(event)

    def _schedule(self, now_ns: int) -> None:
        for ask in self._asks.take_late(now_ns):
            self._refuse(
                ask, RequestError("no caption before the deadline", code="DEADLINE"), "abort"
            )
        room = min(self._captioner.room, self._config.scheduler.max_batch)
        if room < 1:
            return
        priorities = {n: s.scheduler.priority(now_ns=now_ns) for n, s in self._streams.items()}
        turn = self._turns.next(priorities, asked=len(self._asks) > 0)
        if turn == ASKS:
            self._start_asks(room, now_ns)
        elif turn is not None:
            self._start_batch(self._streams[turn], room, now_ns)

    def _start_batch(self, stream: Stream, room: int, now_ns: int) -> None:
        requests = stream.pick(room=room, now_ns=now_ns)
        self._turns.served(stream.frame.stream)
        for _ in requests:
            self._books.request_in()
        self._submit(stream.frame, [Row(r) for r in requests], stream.track_us)

    def _start_asks(self, room: int, now_ns: int) -> None:
        """Direct requests about one picture; the picture's own regions fill the rest of the
        batch.
        """
        rows, frame, stream = [], None, None
        self._turns.served(ASKS)
        for ask in self._asks.take_alike(room):
            stream = self._streams.get(ask.stream) if ask.stream else None
            frame = stream.frame if stream else ask.frame
            try:
                assert frame is not None  # `ask` refused unknown streams
                tracks = stream.tracks if stream else None
                request = resolve(ask, frame, tracks, request_id=next(self._ids))
                self._direct[ask.key] = request.request_id
                rows.append(Row(request, ask.reply, ask.key))
            except UrecaError as error:
                self._refuse(ask, error, "error")
        if stream is not None and rows and not self._turns.halt:
            for request in stream.pick(room=room - len(rows), now_ns=now_ns):
                self._books.request_in()
                rows.append(Row(request))
        if frame is not None:
            self._submit(frame, rows, stream.track_us if stream else 0)

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
