"""The thread that owns the sockets: publishes queued events and answers requests."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

import zmq

from ureca.client.sockets import harden
from ureca.clock import Clock
from ureca.errors import UrecaError, WireError
from ureca.node.access import Guard, allow_unencrypted, anybody, asker_of
from ureca.node.config import PublishConfig
from ureca.node.counters import NodeCounters
from ureca.node.monitoring.memory_trim import MemoryTrimmer, malloc_trim
from ureca.node.publishing.event_queue import Answer, EventQueue
from ureca.node.publishing.publisher import Publisher, Sink
from ureca.node.requests.handler import Control
from ureca.protocol.events import Heartbeat
from ureca.protocol.wire import encode_reply
from ureca.security.authenticator import CurveAuthenticator

_POLL_MS = 100
_REQUEST_HWM = 256
_LINGER_MS = 1000
_log = logging.getLogger(__name__)


def bind_router(
    context: zmq.Context[zmq.Socket[bytes]], address: str, guard: Guard = allow_unencrypted
) -> zmq.Socket[bytes]:
    """The request socket. Raises `WireError` with the remedy when the address is taken."""
    router = context.socket(zmq.ROUTER)
    harden(router)
    router.set_hwm(_REQUEST_HWM)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    guard(router, address, "requests")
    try:
        router.bind(address)
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
    books: NodeCounters,
    sinks: tuple[Sink, ...],
    guard: Guard,
    control: Control,
    event_queue: EventQueue,
    heartbeat: Callable[[], Heartbeat],
    gate: CurveAuthenticator | None,
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
        books=books,
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
    )


class IoThread:
    """Runs the publisher, the control and the heartbeat on the thread `ureca-io`."""

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
    ) -> None:
        self._publisher = publisher
        self._router = router
        self._control = control
        self._event_queue = event_queue
        self._heartbeat = heartbeat
        self._every_ns = int(heartbeat_s * 1e9)
        self._clock = clock
        self._gate = gate
        self._memory_trimmer = MemoryTrimmer(clock, malloc_trim())
        self._wants_keys = router.mechanism == zmq.CURVE
        self._beat_ns = clock.now_ns()
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

    def _loop(self) -> None:
        self._watch()
        while not self._stop.is_set():
            self._poller.poll(_POLL_MS)
            self._turn()
        self._turn()
        self._publisher.publish(self._heartbeat())
        self._close()

    def _watch(self) -> None:
        self._poller = zmq.Poller()
        for source in (self._publisher.socket, self._router, self._event_queue.fileno()):
            self._poller.register(source, zmq.POLLIN)

    def _turn(self) -> None:
        """One round; a fault in it is logged and the next round goes on."""
        try:
            revoked = self._gate is not None and self._gate.take_revoked()
            if revoked or self._publisher.socket.closed:
                self._publisher.reopen()
                self._watch()
            self._publisher.replay_last_values()
            self._receive()
            self._flush()
            self._beat()
            self._memory_trimmer.trim()
        except Exception:  # noqa: BLE001  (the sockets' thread must outlive any message)
            _log.exception("a round of sending and receiving failed")

    def _receive(self) -> None:
        for _ in range(_REQUEST_HWM):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            may = asker_of(self._gate, frames[-1]) if self._gate and self._wants_keys else anybody
            client, *parts = (frame.bytes for frame in frames)
            self._control.handle(client, parts, may)

    def _flush(self) -> None:
        events, answers = self._event_queue.take()
        for event, queued_ns in events:
            self._publisher.publish(event, queued_ns)
        for answer in answers:
            self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        client, reply = answer
        # The client has gone, or reads nothing: there is nobody left to tell.
        with contextlib.suppress(zmq.ZMQError):
            self._router.send_multipart([client, *encode_reply(reply)], zmq.NOBLOCK)

    def _beat(self) -> None:
        now_ns = self._clock.now_ns()
        if now_ns - self._beat_ns >= self._every_ns:
            self._beat_ns = now_ns
            self._publisher.publish(self._heartbeat())

    def _close(self) -> None:
        self._control.close()
        self._publisher.close()
        self._router.close(_LINGER_MS)
