"""The protocol of a source of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

from ureca.datatypes import Frame
from ureca.security.link_guard import LinkGuard

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
class ReconnectingSource(Protocol):
    """A source that reconnects; its methods may be called from any thread."""

    def reasons(self) -> tuple[str, ...]:
        """Why frames are missing, in words for `health`; empty without a problem."""

    def counters(self) -> dict[str, int]:
        """Numbers for the heartbeat."""

    def taken(self, frame: Frame) -> None:
        """A frame of this source is being processed: the next one may come."""


@runtime_checkable
class LinkedSource(Protocol):
    """A source that receives from other processes over ZeroMQ."""

    links: LinkGuard


class SourceStatus:
    """The status of all of a node's sources that can go away; see `ReconnectingSource`."""

    def __init__(self, sources: Iterable[FrameSource]) -> None:
        listed = list(sources)
        self._watched = [source for source in listed if isinstance(source, ReconnectingSource)]
        self._linked = [source for source in listed if isinstance(source, LinkedSource)]

    def links(self) -> tuple[LinkGuard, ...]:
        """The guards of the links that sources have to other processes."""
        return tuple(source.links for source in self._linked)

    def reasons(self) -> tuple[str, ...]:
        """See `ReconnectingSource`."""
        return tuple(why for source in self._watched for why in source.reasons())

    def counters(self) -> dict[str, int]:
        """See `ReconnectingSource`; sources that count the same are added up."""
        total: Counter[str] = Counter()
        for source in self._watched:
            total.update(source.counters())
        return dict(total)

    def taken(self, frame: Frame) -> None:
        """See `ReconnectingSource`; each source knows its own frames."""
        for source in self._watched:
            source.taken(frame)
