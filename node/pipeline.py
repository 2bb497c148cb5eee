"""From a frame to events: track, schedule, caption. No sockets, no sleeping, no threads of its own.

`step(frame, now_ns)` is the deterministic seam: with `testing.SyntheticSource`,
`testing.ScriptedEngine`, an `InlineCaptioner` and a `ManualClock` the whole node is a function of
its frames. One thread calls `step`, `tick` and `close`; `ask` may be called from any.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence

from ureca.clock import Clock
from ureca.datatypes import Frame, Refusal
from ureca.errors import RequestError, UrecaError
from ureca.events import AnyEvent, CaptionAbort, CaptionFinal
from ureca.log import RateLimitedLog
from ureca.node.accounting import Books, End
from ureca.node.asks import Ask, AskQueue, Key
from ureca.node.caption_events import refused_region
from ureca.node.captioner import Captioner, Job, Outcome, Row
from ureca.node.config import NodeConfig
from ureca.node.orders import Order, Orders
from ureca.node.prompts import Prompts
from ureca.node.scheduler import Urgency
from ureca.node.stream import News, Stream, resolve
from ureca.node.waiting import Waiting

Emit = Callable[[AnyEvent], None]
_STUCK_NS = 1_000_000_000
"""A captioner whose requests have all ended is done within this, or hangs."""


def _nobody(event: AnyEvent) -> None:
    """The default receiver: events are only returned."""


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
        self._streams: dict[str, Stream] = {}
        self._asks = AskQueue(config.limits.max_asks)
        self._orders: Waiting[Order] = Waiting(config.limits.max_orders)
        self._desk = Orders(self._streams, tell=self._tell, cancel=self._cancel)
        self._direct: dict[Key, int] = {}
        self._stuck_ns: int | None = None
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
        for order in self._orders.close():
            order.fail(RequestError("the node is shutting down", code="GONE"))
        self._captioner.close()
        self._absorb()
        for stream in self._streams.values():
            self._tell(stream.close(reason, now_ns=now_ns))
        return self._events()

    def streams(self) -> dict[str, dict[str, int]]:
        """Per stream what the heartbeat says about it; may be called from any thread."""
        return {name: stream.facts() for name, stream in list(self._streams.items())}

    def reasons(self) -> list[str]:
        """Why captions are not what they should be; may be called from any thread."""
        found = [
            f"{name}: the picture has been the same to the last bit for "
            f"{stream.facts()['unchanged_ms'] / 1e3:.0f} s, nothing is renewed from it; is the "
            "camera frozen? (source.frozen_s)"
            for name, stream in list(self._streams.items())
            if stream.is_frozen
        ]
        since_ns = self._stuck_ns
        if since_ns is not None and self._clock.now_ns() - since_ns > _STUCK_NS:
            found.append("the captioner does not return from a batch that was given up")
        return found

    def _is_stuck(self) -> bool:
        """The captioner is busy although every request has ended."""
        in_flight = any(stream.scheduler.in_flight for stream in self._streams.values())
        return self._captioner.room < 1 and not in_flight and not self._direct

    # --- regions ---------------------------------------------------------------------------------

    def _tell(self, news: News) -> None:
        for event in news.events:
            self._send(event)
        for abort in news.aborts:
            self._captioner.abort(abort.request_id, abort.reason)

    def _refused(self, stream: Stream, refused: Sequence[Refusal], now_ns: int) -> None:
        """A refused region is counted, and now and then told: it ends in an error, as every wish
        does.
        """
        self._books.region_refused(len(refused))
        for refusal in stream.refusals.due(refused, now_ns=now_ns):
            self._log.warning(refusal.reason[:40], f"a region is refused: {refusal.reason}")
            self._books.request_in()
            self._books.request_ended("error")
            self._send(refused_region(refusal, stream.frame.stream, next(self._ids)))

    # --- orders ----------------------------------------------------------------------------------

    def _carry_out(self, now_ns: int) -> None:
        for order in self._orders.take():
            self._desk.carry_out(order, now_ns=now_ns)

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
            self._books.request_ended(_end(outcome))
            self._direct.pop(outcome.row.key, None)
            stream = self._streams.get(outcome.row.request.stream)
            if stream is not None and outcome.row.reply is None:
                has_caption = isinstance(outcome.event, CaptionFinal)
                stream.scheduler.ended(
                    outcome.row.request, has_caption=has_caption, now_ns=outcome.ended_ns
                )
        if not self._is_stuck():
            self._stuck_ns = None
        elif self._stuck_ns is None:
            self._stuck_ns = self._clock.now_ns()

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

    def _start_batch(self, stream: Stream, room: int, now_ns: int) -> None:
        requests = stream.pick(room=room, now_ns=now_ns)
        for _ in requests:
            self._books.request_in()
        self._submit(stream.frame, [Row(r) for r in requests], stream.track_us)

    def _start_asks(self, room: int, now_ns: int) -> None:
        """Direct requests about one picture; the picture's own regions fill the rest of the
        batch.
        """
        rows, frame, stream = [], None, None
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
        if stream is not None and rows:
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


def _end(outcome: Outcome) -> End:
    if isinstance(outcome.event, CaptionFinal):
        return "final"
    return "abort" if isinstance(outcome.event, CaptionAbort) else "error"
