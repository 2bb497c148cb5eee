"""Direct requests (`describe`): one region of a stream's newest frame, or of a picture sent
along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ureca.datatypes import Frame, RegionSeed, Style
from ureca.errors import UrecaError
from ureca.node.pipeline.request_queue import Waiting
from ureca.protocol.events import AnyEvent

Key = tuple[bytes, bytes]
"""Who asked and under which id: what `cancel` goes by."""


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
