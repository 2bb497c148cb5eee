"""Stamps events, sends them to subscribers, and stores the last values of every live region.

A late joiner gets these last values when it subscribes. They are sent to all subscribers, with new
`event_seq`, so that numbers rise without gaps; consumers recognize a repeat by `(session_id, rid,
rev)` or `request_id`. XPUB cannot address one peer: manual mode changes the subscriptions, but
prefixes match all the same, and the draft option for last values sends one message per
subscription. `snapshot` over ROUTER goes only to its client.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import zmq

from ureca.client.region_cache import RegionCache
from ureca.client.sockets import (
    EVENT_HWM,
    Reopening,
    bind,
    harden,
    take_subscriptions_only,
)
from ureca.clock import Clock
from ureca.errors import WireError
from ureca.log import RateLimitedLog
from ureca.node.access import Guard, allow_unencrypted
from ureca.node.config import PublishConfig
from ureca.node.counters import NodeCounters
from ureca.protocol.events import AnyEvent, CaptionFinal, EventSink, Panoptic
from ureca.protocol.wire import encode_event, event_topic
from ureca.security.link_guard import LinkGuard

_LINGER_MS = 1000
_REPLAY_EVERY_NS = 200_000_000
"""Repeats go to all subscribers, so several new ones share one."""
MAX_SUBSCRIPTIONS_A_TURN = 256
_MAX_GREETED = 1024
_MAX_HELD_BYTES = 1 << 20
"""Subscriptions of all subscribers together, and messages of theirs that were not read yet."""
_MAX_MESSAGES_PER_S = 5_000


def event_links(clock: Clock) -> LinkGuard:
    """The bounds of what subscribers send."""
    return LinkGuard(
        "events", clock, max_held_bytes=_MAX_HELD_BYTES, max_messages_per_s=_MAX_MESSAGES_PER_S
    )


class Publisher:
    """The XPUB side. One thread calls all methods; `sinks` get each stamped event.

    Late joiners get the last values of at most `max_regions` regions.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        config: PublishConfig,
        *,
        max_regions: int,
        session_id: bytes,
        clock: Clock,
        counters: NodeCounters,
        sinks: Iterable[EventSink] = (),
        guard: Guard = allow_unencrypted,
    ) -> None:
        self.last = RegionCache(max_regions)
        self.session_id = session_id
        self._node = config.node
        self._replays = config.greet
        self._clock = clock
        self._counters = counters
        self._sinks = tuple(sinks)
        self._event_seq = 0
        self._dropped: Counter[str] = Counter()
        self._replayed_ns = 0
        self._new_subscriptions: set[bytes] = set()
        self._segments: dict[str, Panoptic] = {}
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._context = context
        self._guard = guard
        self.links = event_links(clock)
        self.socket = self._open(config.events)
        address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._reopening = Reopening(lambda: self._open(address), clock)

    def publish(self, event: AnyEvent, queued_ns: int | None = None) -> None:
        """Stamp, send, remember and show one event."""
        self.replay_last_values()
        if isinstance(event, Panoptic):
            event = self._with_captions(event)
        stamped = self._stamp(event, queued_ns)
        self.last.apply(stamped)
        if isinstance(stamped, Panoptic):
            self._segments[stamped.stream] = stamped
        self._send(stamped)
        for sink in self._sinks:
            try:
                sink(stamped)
            except Exception as error:  # noqa: BLE001, PERF203  (others go on)
                self._log.warning(f"sink {type(error).__name__}", "a sink failed", error=error)

    def panoptic(self, stream: str | None) -> Panoptic | None:
        """The newest segments of a stream (None: of the only one) with the captions of now."""
        if stream is None and len(self._segments) == 1:
            stream = next(iter(self._segments))
        found = self._segments.get(stream or "")
        return None if found is None else self._with_captions(found)

    def _with_captions(self, event: Panoptic) -> Panoptic:
        """The event with the newest caption of every region, valid or not."""
        known = {one.n: self.last.get(event.stream, one.rid) for one in event.segments}
        segments = tuple(
            msgspec.structs.replace(one, caption=record.text if record else None)
            for one, record in ((one, known[one.n]) for one in event.segments)
        )
        return msgspec.structs.replace(event, segments=segments)

    def replay_last_values(self) -> bool:
        """Read new subscriptions, a bounded number of them, and send the last values that they
        match. True when more may wait.
        """
        unread = self._read_subscriptions()
        now_ns = self._clock.now_ns()
        if self._new_subscriptions and now_ns - self._replayed_ns >= _REPLAY_EVERY_NS:
            topics, self._new_subscriptions, self._replayed_ns = (
                tuple(self._new_subscriptions),
                set(),
                now_ns,
            )
            for event in self.last.events():
                if event_topic(event, self._node).encode().startswith(topics):
                    self._send(self._stamp(event, None))
        return unread

    def _read_subscriptions(self) -> bool:
        if self.socket.closed:
            return False
        for _ in range(MAX_SUBSCRIPTIONS_A_TURN):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            message = frames[0].bytes
            # What is subscribed stays in libzmq's tree until it is cancelled.
            kept = {b"\x01": 0, b"\x00": 2}.get(message[:1], 1)
            self.links.delivered(frames[-1], kept * len(message))
            greets = self._replays and len(self._new_subscriptions) < _MAX_GREETED
            if kept == 0 and greets:
                self._new_subscriptions.add(message[1:])
        return True

    def close_connections(self) -> None:
        """Close every connection, to bind again: ZeroMQ cannot disconnect a single subscriber.

        The others reconnect by themselves, detect the gap in `event_seq` and get the last values.
        Until `bind_again` has succeeded, events are counted as dropped.
        """
        self.socket.close(_LINGER_MS)
        self._reopening.begin()

    def bind_again(self) -> bool:
        """Bind after `close_connections`, if it is time to try; whether the socket is a new one."""
        reopened = self._reopening.attempt() if self.socket.closed else None
        if reopened is not None:
            self.socket = reopened
        return reopened is not None

    def reasons(self) -> tuple[str, ...]:
        """Why nobody can subscribe, for `health`."""
        why = self._reopening.failure
        return () if why is None else (f"events: {why}",)

    def close(self) -> None:
        """Close the socket; what is on its way may still arrive."""
        self.socket.close(_LINGER_MS)

    def _open(self, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.XPUB)
        harden(socket)
        socket.setsockopt(zmq.SNDHWM, EVENT_HWM)
        take_subscriptions_only(socket)
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        try:
            self._guard(socket, address, "events")
            bind(socket, address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise WireError(
                f"cannot publish on {address}: {error}; is another node running? Choose another "
                "address with --set publish.events=tcp://127.0.0.1:PORT",
                code="INTERNAL",
            ) from error
        self.links.watch(socket)
        return socket

    def _stamp(self, event: AnyEvent, queued_ns: int | None) -> AnyEvent:
        self._event_seq += 1
        now_ns = self._clock.now_ns()
        stamps: dict[str, Any] = {
            "session_id": self.session_id,
            "event_seq": self._event_seq,
            "pub_ns": now_ns,
        }
        if isinstance(event, CaptionFinal):
            stamps["age_at_pub_ms"] = round((now_ns - event.captured_ns) / 1e6, 3)
            if queued_ns is not None:
                stamps["drop"] = self._dropped_since()
                stamps["stage_us"] = {**event.stage_us, "pub": (now_ns - queued_ns) // 1000}
        return msgspec.structs.replace(event, **stamps)

    def _dropped_since(self) -> dict[str, int]:
        """Frames dropped by reason since this was asked last."""
        now = Counter(self._counters.balance().frames_dropped)
        gained, self._dropped = now - self._dropped, now
        return dict(gained)

    def _send(self, event: AnyEvent) -> None:
        if self.socket.closed:
            self._counters.event_dropped()
            return
        try:
            self.socket.send_multipart(encode_event(event, self._node), zmq.NOBLOCK)
        except WireError as error:  # an event of ours that breaks our own limits: say so, go on
            self._counters.event_dropped()
            self._log.warning("unsendable", f"an event could not be sent: {error}")
        except zmq.Again:
            self._counters.event_dropped()
