"""Direct requests (`describe`): one region of a stream's newest frame, or of a picture sent
along.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ureca.datatypes import Frame, RegionSeed, Style
from ureca.errors import RequestError, UrecaError
from ureca.events import AnyEvent


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


class AskQueue:
    """What the control thread leaves for the step thread; bounded, and full means BUSY at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._asks: deque[Ask] = deque()
        self._closed = False

    def put(self, ask: Ask) -> None:
        """Raises `RequestError` with BUSY when the queue is full, GONE when the node is
        stopping.
        """
        with self._lock:
            if self._closed:
                raise RequestError("the node is shutting down", code="GONE")
            if len(self._asks) >= self._limit:
                raise RequestError(
                    f"{self._limit} requests are waiting; try again soon",
                    code="BUSY",
                    retry_after_ms=500,
                )
            self._asks.append(ask)

    def take_late(self, now_ns: int) -> list[Ask]:
        """Remove and return the requests whose deadline has passed."""
        with self._lock:
            late = [ask for ask in self._asks if now_ns > ask.deadline_ns]
            self._asks = deque(ask for ask in self._asks if now_ns <= ask.deadline_ns)
            return late

    def take(self, room: int) -> list[Ask]:
        """The oldest request and those behind it that share its picture, at most `room`."""
        with self._lock:
            if not self._asks or room < 1:
                return []
            first = self._asks[0]
            alike = [a for a in self._asks if a.frame is first.frame and a.stream == first.stream]
            taken = alike[:room]
            self._asks = deque(a for a in self._asks if not any(a is t for t in taken))
            return taken

    def close(self) -> list[Ask]:
        """Refuse further requests and return those that waited."""
        with self._lock:
            self._closed = True
            waiting, self._asks = list(self._asks), deque()
            return waiting

    def __len__(self) -> int:
        return len(self._asks)
