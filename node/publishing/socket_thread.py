"""The thread that owns the sockets: publishes queued events and answers requests."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import zmq

from ureca.client.sockets import bind, harden, received_frames
from ureca.clock import Clock
from ureca.errors import UrecaError, WireError
from ureca.log import RateLimitedLog
from ureca.node.access import Guard, allow_unencrypted, anybody, asker_of
from ureca.node.config import PublishConfig
from ureca.node.counters import NodeCounters
from ureca.node.monitoring.memory_trim import MemoryTrimmer, malloc_trim
from ureca.node.publishing.event_queue import AddressedReply, EventQueue
from ureca.node.publishing.publisher import Publisher
from ureca.node.requests.handler import Control
from ureca.protocol.events import EventSink, Heartbeat
from ureca.protocol.wire import encode_reply
from ureca.security.authenticator import CurveAuthenticator
from ureca.security.link_guard import LinkGuard

_POLL_MS, _REOPENING_POLL_MS = 50, 10
_REQUEST_HWM, _REPLY_HWM = 128, 64
"""Of each connection. A message is counted when it is whole, however long it is."""
_MAX_HELD_BYTES = 96 << 20
_MAX_REQUESTS_PER_S = 4_000
_REFUSED_BYTES = 1 << 14
"""So many bytes of a refused request count as a further one."""
_LINGER_MS = 1000
_MAX_REQUEST_PARTS = 4
"""The client, and one more than a request has: then it is refused."""
MAX_ITEMS_A_TURN = 256
_TURN_NS = 10_000_000


class TurnBudget:
    """How much of one kind of work a turn of the sockets' thread may do: so many items, and no
    further one after so much time. What is left waits for the next turn, behind the other kinds.
    """

    def __init__(
        self, clock: Clock, *, items: int = MAX_ITEMS_A_TURN, time_ns: int = _TURN_NS
    ) -> None:
        self._clock, self._items, self._time_ns = clock, items, time_ns

    def __iter__(self) -> Iterator[int]:
        until_ns = self._clock.now_ns() + self._time_ns
        for item in range(self._items):
            yield item
            if self._clock.now_ns() >= until_ns:
                return


def request_links(clock: Clock) -> LinkGuard:
    """The bounds of what clients send."""
    return LinkGuard(
        "requests",
        clock,
        max_held_bytes=_MAX_HELD_BYTES,
        max_messages_per_s=_MAX_REQUESTS_PER_S,
    )


def bind_router(
    context: zmq.Context[zmq.Socket[bytes]], address: str, guard: Guard = allow_unencrypted
) -> zmq.Socket[bytes]:
    """The request socket. Raises `WireError` with the remedy when the address is taken."""
    router = context.socket(zmq.ROUTER)
    harden(router)
    router.setsockopt(zmq.RCVHWM, _REQUEST_HWM)
    router.setsockopt(zmq.SNDHWM, _REPLY_HWM)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    guard(router, address, "requests")
    try:
        bind(router, address)
    except zmq.ZMQError as error:
        router.close(0)
        raise WireError(
            f"cannot answer requests on {address}: {error}; is another node running? "
            "Choose another address with --set publish.requests=tcp://127.0.0.1:PORT",
            code="INTERNAL",
        ) from error
    return router


def open_sockets(
    context: zmq.Context[zmq.Socket[bytes]],
    publish: PublishConfig,
    *,
    max_regions: int,
    session_id: bytes,
    clock: Clock,
    counters: NodeCounters,
    sinks: tuple[EventSink, ...],
    guard: Guard,
    control: Control,
    event_queue: EventQueue,
    heartbeat: Callable[[], Heartbeat],
    gate: CurveAuthenticator | None,
    links: Sequence[LinkGuard],
) -> tuple[Publisher, IoThread]:
    """Bind events and requests, and the thread that will own them. Raises `WireError` with the
    remedy when an address is taken; then nothing is left open.
    """
    publisher = Publisher(
        context,
        publish,
        max_regions=max_regions,
        session_id=session_id,
        clock=clock,
        counters=counters,
        sinks=sinks,
        guard=guard,
    )
    try:
        router = bind_router(context, publish.requests, guard)
    except UrecaError:
        publisher.close()
        raise
    return publisher, IoThread(
        publisher,
        router,
        control,
        event_queue,
        heartbeat=heartbeat,
        heartbeat_s=publish.heartbeat_s,
        clock=clock,
        gate=gate,
        links=links,
    )


class IoThread:
    """Runs the publisher, the control and the heartbeat on the thread `ureca-io`, and checks
    `links` of other sockets.
    """

    def __init__(
        self,
        publisher: Publisher,
        router: zmq.Socket[bytes],
        control: Control,
        event_queue: EventQueue,
        *,
        heartbeat: Callable[[], Heartbeat],
        heartbeat_s: float,
        clock: Clock,
        gate: CurveAuthenticator | None = None,
        links: Sequence[LinkGuard] = (),
    ) -> None:
        self._publisher = publisher
        self._router = router
        self._control = control
        self._event_queue = event_queue
        self._heartbeat = heartbeat
        self._every_ns = int(heartbeat_s * 1e9)
        self._clock = clock
        self._gate = gate
        self._budget = TurnBudget(clock)
        self._requests = request_links(clock)
        self._requests.watch(router)
        self.links = (publisher.links, self._requests, *links)
        self._memory_trimmer = MemoryTrimmer(clock, malloc_trim())
        self._wants_keys = router.mechanism == zmq.CURVE
        self._beat_ns = clock.now_ns()
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._poll_ms = _POLL_MS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="ureca-io")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Send what still waits and a last heartbeat, then close the sockets."""
        self._stop.set()
        self._event_queue.wake()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._close()

    def counters(self) -> dict[str, int]:
        """Connections that were cut, for the heartbeat."""
        return {name: count for one in self.links for name, count in one.counters().items()}

    def _loop(self) -> None:
        self._watch()
        while not self._stop.is_set():
            if not self._guarded(self._wait):
                self._watch()  # a socket was closed under the poller
                self._stop.wait(_POLL_MS / 1e3)
            self._poll_ms = self._run_once()
        self._run_once()
        self._control.close()
        while self._flush():
            pass
        self._publisher.publish(self._heartbeat())
        self._close()

    def _wait(self) -> bool:
        self._poller.poll(self._poll_ms)
        return True

    def _watch(self) -> None:
        self._poller = zmq.Poller()
        for source in (self._publisher.socket, self._router, self._event_queue.fileno()):
            if not (isinstance(source, zmq.Socket) and source.closed):
                self._poller.register(source, zmq.POLLIN)

    def _run_once(self) -> int:
        """One turn; how many milliseconds the next one may wait. A fault is logged, and the next
        turn goes on.
        """
        is_more = False
        for part in (self._keep_open, self._publisher.replay_last_values, self._receive):
            is_more |= self._guarded(part)
        for part in (self._flush, self._beat, self._tidy):
            is_more |= self._guarded(part)
        if is_more:
            return 0
        return _REOPENING_POLL_MS if self._publisher.socket.closed else _POLL_MS

    def _guarded(self, part: Callable[[], bool | None]) -> bool:
        """Run a part of the turn; whether it has more to do. Its failure ends no other part."""
        try:
            return bool(part())
        except Exception as error:  # noqa: BLE001  (the sockets' thread must outlive any message)
            self._log.warning(repr(type(error)), "a turn of the sockets failed", error=error)
            return False

    def _keep_open(self) -> None:
        if self._gate is not None and self._gate.take_revoked():
            self._publisher.close_connections()
            self._watch()
        if self._publisher.bind_again():
            self._watch()

    def _receive(self) -> bool:
        for _ in self._budget:
            message = received_frames(self._router, _MAX_REQUEST_PARTS)
            if message is None:
                return False
            frames, last, size = message
            may = asker_of(self._gate, last) if self._gate and self._wants_keys else anybody
            client, *given = frames
            # A picture is copied when it is decoded, not before it is known to be wanted.
            parts = [one.bytes if place == 0 else one.buffer for place, one in enumerate(given)]
            is_taken = self._control.handle(client.bytes, parts, may)
            if self._requests.is_on:
                weight = 1 if is_taken else 1 + size // _REFUSED_BYTES
                self._requests.delivered(last, size, weight=weight)
        return True

    def _flush(self) -> bool:
        self._event_queue.quiet()
        for _ in self._budget:
            event = self._event_queue.next_event()
            if event is None:
                break
            self._publisher.publish(*event)
        for _ in self._budget:
            answer = self._event_queue.next_answer()
            if answer is None:
                break
            self._answer(answer)
        return len(self._event_queue) > 0

    def _answer(self, answer: AddressedReply) -> None:
        client, reply = answer
        # The client has gone, or reads nothing: there is nobody left to tell.
        with contextlib.suppress(zmq.ZMQError):
            self._router.send_multipart([client, *encode_reply(reply)], zmq.NOBLOCK)

    def _beat(self) -> None:
        now_ns = self._clock.now_ns()
        if now_ns - self._beat_ns >= self._every_ns:
            self._beat_ns = now_ns
            self._publisher.publish(self._heartbeat())

    def _tidy(self) -> None:
        for links in self.links:
            if links.is_on:
                links.check()
        self._memory_trimmer.trim()

    def _close(self) -> None:
        self._control.close()
        self._publisher.close()
        self._router.close(_LINGER_MS)
