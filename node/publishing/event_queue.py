"""A queue of events and replies from any thread, read by the thread that owns the sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque

from ureca.clock import Clock
from ureca.node.counters import NodeCounters
from ureca.protocol.event_table import spec_of
from ureca.protocol.events import AnyEvent
from ureca.protocol.requests import Reply

Queued = tuple[AnyEvent, int]
"""An event and when it was queued, in nanoseconds."""
AddressedReply = tuple[bytes, Reply]
"""A reply and the identity of the client that it is for."""


class EventQueue:
    """A bounded queue with a file descriptor to poll. Beyond the limit, what the streams table lets
    go is dropped and counted; terminals and the life of regions are always kept.
    """

    def __init__(self, limit: int, *, clock: Clock, counters: NodeCounters) -> None:
        self._limit = limit
        self._clock = clock
        self._counters = counters
        self._lock = threading.Lock()
        self._events: deque[Queued] = deque()
        self._answers: deque[AddressedReply] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)

    def put(self, event: AnyEvent) -> None:
        """Queue an event for all subscribers."""
        with self._lock:
            if len(self._events) >= self._limit and spec_of(event).loss != "never":
                self._counters.event_dropped()
                return
            self._events.append((event, self._clock.now_ns()))
        self.wake()

    def answer(self, client: bytes, reply: Reply) -> None:
        """Queue a reply for one client; progress gives way when too much waits."""
        with self._lock:
            if len(self._answers) >= self._limit and not reply.terminal:
                return
            self._answers.append((client, reply))
        self.wake()

    def quiet(self) -> None:
        """Take back what `wake` did; call it before the queue is read."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def next_event(self) -> Queued | None:
        """The oldest event that waits."""
        with self._lock:
            return self._events.popleft() if self._events else None

    def next_answer(self) -> AddressedReply | None:
        """The oldest reply that waits."""
        with self._lock:
            return self._answers.popleft() if self._answers else None

    def __len__(self) -> int:
        return len(self._events) + len(self._answers)

    def wake(self) -> None:
        """Make the descriptor readable."""
        with contextlib.suppress(BlockingIOError):  # full of wake-ups: one more says nothing new
            self._writer.send(b"\0")

    def fileno(self) -> int:
        """The descriptor that is readable when something waits."""
        return self._reader.fileno()

    def close(self) -> None:
        """Close the descriptors; call it after the threads that put are gone."""
        self._reader.close()
        self._writer.close()
