"""The middleware interface of the bridge: publish and subscribe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from ureca.bridges.ros.messages import Message

Quality = Literal["reliable", "sensor"]
"""ROS's default (reliable, last 10) and its sensor data (best effort, last 5); both volatile.

The bridge publishes reliably, which matches both kinds of readers; it subscribes as sensor data,
which matches both kinds of writers.
"""
DEPTH = {"reliable": 10, "sensor": 5}

_M = TypeVar("_M", bound=Message)


class Transport(Protocol):
    """One node of a ROS graph. Callbacks may come on a thread of the transport's own."""

    def publisher(self, topic: str, kind: type[_M], quality: Quality) -> Callable[[_M], bool]:
        """Create a publisher of a topic (`/a/b`); the result sends one message, and returns whether
        it was accepted.
        """

    def subscribe(
        self, topic: str, kind: type[_M], quality: Quality, heard: Callable[[_M], None]
    ) -> None:
        """Call `heard` for every message of a topic."""

    def close(self) -> None:
        """Leave the graph; afterwards there are no callbacks."""
