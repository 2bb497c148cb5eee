"""What one thread leaves for another: a bounded queue that says BUSY at once when it is full."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ureca.errors import RequestError

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
