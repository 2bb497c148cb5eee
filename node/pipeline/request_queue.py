"""Requests that wait for the step thread: bounded queues that answer BUSY when they are full."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import Struct

from ureca.datatypes import Frame, RegionSeed, Style
from ureca.errors import RequestError, UrecaError
from ureca.protocol.events import AnyEvent

Item = TypeVar("Item")
_RETRY_MS = 500


class Waiting(Generic[Item]):
    """Requests in the order of their arrival; thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._closed = False

    def put(self, item: Item) -> None:
        """Raises `RequestError` with BUSY when the queue is full, GONE when the node is
        stopping.
        """
        with self._lock:
            if self._closed:
                raise RequestError("the node is shutting down", code="GONE")
            if len(self._items) >= self._limit:
                raise RequestError(
                    f"{self._limit} requests are waiting; try again soon",
                    code="BUSY",
                    retry_after_ms=_RETRY_MS,
                )
            self._items.append(item)

    def first(self) -> Item | None:
        """The oldest, which stays."""
        with self._lock:
            return self._items[0] if self._items else None

    def take(
        self, wanted: Callable[[Item], bool] | None = None, *, room: int | None = None
    ) -> list[Item]:
        """Remove and return those that are `wanted` (all, if None), oldest first, at most
        `room`.
        """
        with self._lock:
            taken = [item for item in self._items if wanted is None or wanted(item)][:room]
            self._items = deque(
                item for item in self._items if not any(item is one for one in taken)
            )
            return taken

    def close(self) -> list[Item]:
        """Refuse further items and return those that waited."""
        with self._lock:
            self._closed = True
            waiting, self._items = list(self._items), deque()
            return waiting

    def __len__(self) -> int:
        return len(self._items)


Key = tuple[bytes, bytes]
"""The client and its request id, which `cancel` uses."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One direct request. Exactly one of `stream` and `frame` (a picture of the client's own), and
    one of `rid` and `seed`. `reply` gets the caption's events; `fail` gets the error when no
    caption could be started.
    """

    reply: Callable[[AnyEvent], None]
    fail: Callable[[UrecaError], None]
    deadline_ns: int
    stream: str | None = None
    frame: Frame | None = None
    rid: str | None = None
    seed: RegionSeed | None = None
    style: Style = "short"
    max_new_tokens: int | None = None
    key: Key = (b"", b"")


class AskQueue(Waiting[Ask]):
    """What the control thread leaves for the step thread; bounded, and full means BUSY at once."""

    def take_late(self, now_ns: int) -> list[Ask]:
        """Remove and return the requests whose deadline has passed."""
        return self.take(lambda ask: now_ns > ask.deadline_ns)

    def remove(self, key: Key) -> Ask | None:
        """Remove and return the request of this key, if it still waits."""
        return next(iter(self.take(lambda ask: ask.key == key, room=1)), None)

    def take_alike(self, room: int) -> list[Ask]:
        """The oldest request and those behind it that share its picture, at most `room`."""
        first = self.first()
        if first is None or room < 1:
            return []
        return self.take(
            lambda ask: ask.frame is first.frame and ask.stream == first.stream, room=room
        )


Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """One such request; exactly one of `reply` and `fail` is called."""

    args: Struct
    client: bytes
    reply: Callable[[Plain], None]
    fail: Callable[[UrecaError], None]
    deadline_ns: int
