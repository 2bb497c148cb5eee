"""Who may send frames of which stream: the first sender of a stream keeps its name."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

from ureca.clock import Clock
from ureca.errors import WireError
from ureca.protocol.wire import parse_topic

SILENT_NS = 60_000_000_000
"""After this long without a frame a stream's name is free again."""


@dataclass(slots=True)
class _Owner:
    name: bytes
    heard_ns: int


class StreamOwners:
    """The streams of all sources of a node and their senders; any thread may ask.

    A sender is the public key of a camera, or the endpoint of a link without keys. `reserved` are
    the streams of the node's own sources: nobody else may send them.
    """

    def __init__(self, clock: Clock, *, max_streams: int, reserved: Collection[str] = ()) -> None:
        self._clock, self._max_streams = clock, max_streams
        self._reserved = frozenset(reserved)
        self._owners: dict[str, _Owner] = {}
        self._lock = threading.Lock()

    def admits(self, topic: bytes, sender: bytes, others: Collection[bytes] = ()) -> bool:
        """Whether `sender` may send frames under `topic`.

        `others` are senders who may come at any time: a place is kept for each that has none, so
        that one camera cannot take all of them. What is no topic is let through: it is refused for
        what it is.
        """
        try:
            stream = parse_topic(topic).stream
        except WireError:
            return True
        now_ns = self._clock.now_ns()
        with self._lock:
            owner = self._owners.get(stream)
            if owner is not None and (owner.name == sender or now_ns - owner.heard_ns < SILENT_NS):
                if owner.name == sender:
                    owner.heard_ns = now_ns
                return owner.name == sender
            if stream in self._reserved or not self._has_place(sender, others, now_ns):
                return False
            self._owners[stream] = _Owner(sender, now_ns)
            return True

    def _has_place(self, sender: bytes, others: Collection[bytes], now_ns: int) -> bool:
        for stream, owner in list(self._owners.items()):
            if now_ns - owner.heard_ns >= SILENT_NS:
                del self._owners[stream]
        have = {owner.name for owner in self._owners.values()}
        if sender not in have:
            return True  # one stream for everybody: the node drops what is beyond its places
        waiting = len(set(others) - have - {sender})
        return len(self._owners) + len(self._reserved) + waiting < self._max_streams
