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
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import zmq

from ureca.client.region_cache import RegionCache
from ureca.client.sockets import EVENT_HWM, harden, open_again, received
from ureca.clock import Clock
from ureca.errors import WireError
from ureca.log import RateLimitedLog
from ureca.node.access import Guard, allow_unencrypted
from ureca.node.config import PublishConfig
from ureca.node.counters import NodeCounters
from ureca.protocol.events import AnyEvent, CaptionFinal
from ureca.protocol.wire import encode_event, event_topic

_LINGER_MS = 1000
_REPLAY_EVERY_NS = 200_000_000
"""Repeats go to all subscribers, so several new ones share one."""
Sink = Callable[[AnyEvent], None]


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
        books: NodeCounters,
        sinks: Iterable[Sink] = (),
        guard: Guard = allow_unencrypted,
    ) -> None:
        self.last = RegionCache(max_regions)
        self.session_id = session_id
        self._node = config.node
        self._replays = config.greet
        self._clock = clock
        self._books = books
        self._sinks = tuple(sinks)
        self._event_seq = 0
        self._dropped: Counter[str] = Counter()
        self._replayed_ns = 0
        self._new_subscriptions: set[bytes] = set()
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._context = context
        self._guard = guard
        self.socket = self._open(config.events)

    def publish(self, event: AnyEvent, queued_ns: int | None = None) -> None:
        """Stamp, send, remember and show one event."""
        self.replay_last_values()
        stamped = self._stamp(event, queued_ns)
        self.last.apply(stamped)
        self._send(stamped)
        for sink in self._sinks:
            sink(stamped)

    def replay_last_values(self) -> None:
        """Read new subscriptions and send the last values that they match."""
        while (parts := received(self.socket)) is not None:
            if parts[0][:1] == b"\x01" and self._replays:
                self._new_subscriptions.add(parts[0][1:])
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

    def reopen(self) -> None:
        """Close every connection and bind again: ZeroMQ cannot disconnect a single subscriber.

        The others reconnect by themselves, detect the gap in `event_seq` and get the last values.
        """
        address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.socket.close(_LINGER_MS)
        self.socket = open_again(lambda: self._open(address))

    def close(self) -> None:
        """Close the socket; what is on its way may still arrive."""
        self.socket.close(_LINGER_MS)

    def _open(self, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.XPUB)
        harden(socket)
        socket.set_hwm(EVENT_HWM)
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._guard(socket, address, "events")
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise WireError(
                f"cannot publish on {address}: {error}; is another node running? Choose another "
                "address with --set publish.events=tcp://127.0.0.1:PORT",
                code="INTERNAL",
            ) from error
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
        now = Counter(self._books.balance().frames_dropped)
        gained, self._dropped = now - self._dropped, now
        return dict(gained)

    def _send(self, event: AnyEvent) -> None:
        try:
            self.socket.send_multipart(encode_event(event, self._node), zmq.NOBLOCK)
        except WireError as error:  # an event of ours that breaks our own limits: say so, go on
            self._books.event_dropped()
            self._log.warning("unsendable", f"an event could not be sent: {error}")
        except zmq.Again:
            self._books.event_dropped()
