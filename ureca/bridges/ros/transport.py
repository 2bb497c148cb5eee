"""What the bridge needs of a middleware: publish a message, hear of messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from ureca.bridges.ros.messages import Message

Quality = Literal["reliable", "sensor"]
"""ROS's default (reliable, last 10) and its sensor data (best effort, last 5); both volatile.

What the bridge publishes is reliable, which suits readers of both sorts; what it reads is asked for
as sensor data, which takes writers of both sorts.
"""
DEPTH = {"reliable": 10, "sensor": 5}

_M = TypeVar("_M", bound=Message)


class Transport(Protocol):
    """One node of a ROS graph. Callbacks may come on a thread of the transport's own."""

    def publisher(self, topic: str, kind: type[_M], quality: Quality) -> Callable[[_M], bool]:
        """Offer a topic (`/a/b`); the result sends one message, and says whether it was taken."""

    def subscribe(
        self, topic: str, kind: type[_M], quality: Quality, heard: Callable[[_M], None]
    ) -> None:
        """Call `heard` for every message of a topic."""

    def close(self) -> None:
        """Leave the graph; no callback comes after it."""
