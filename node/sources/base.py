"""What a source of frames can do, as the node sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from ureca.datatypes import Frame

Wait = Callable[[float], bool]
"""Waits up to so many seconds; True means stop. `threading.Event.wait` of a stop event is one."""


class FrameSource(Protocol):
    """A source of frames."""

    @property
    def is_lossless(self) -> bool:
        """True when every frame must be processed: the taker makes the source wait."""

    def frames(self) -> Iterator[Frame]:
        """Yields frames until the source ends or is stopped; called once, from one thread."""


@runtime_checkable
class Watched(Protocol):
    """A source that reconnects; its methods may be called from any thread."""

    def reasons(self) -> tuple[str, ...]:
        """Why frames are missing, in words for `health`; empty without a problem."""

    def counters(self) -> dict[str, int]:
        """Numbers for the heartbeat."""

    def taken(self, frame: Frame) -> None:
        """A frame of this source is being processed: the next one may come."""
