"""Converts stamps of other clocks to the node's clock.

A camera on another host has another monotonic clock, with an offset of hours or days; one that
stamps in wall time has yet another. Ages would be meaningless. So such a stamp is shifted by the
smallest (arrival - stamp) of its sender in the last seconds. That difference is the clock offset
plus the smallest network delay, which one side cannot separate: ages of such frames do not include
the smallest network delay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ureca.clock import Clock, clock_domain
from ureca.datatypes import Frame

_SPAN_NS = 10_000_000_000
"""Smallest differences of this span and the one before it count: 100 ppm of drift are 2 ms then."""
_MAX_SENDERS = 64


@dataclass(slots=True)
class _SenderClock:
    """The smallest differences of the present and the last span, ns."""

    session_id: bytes
    until_ns: int
    least_ns: int
    before_ns: int


class Clocks:
    """`ours` converts incoming frames, in one thread. Frames without a `clock_id` use the node's
    clock if they come from this host.
    """

    def __init__(self, clock: Clock, *, is_local: bool) -> None:
        self._clock = clock
        self._is_local = is_local
        self._senders: dict[str, _SenderClock] = {}

    def ours(self, frame: Frame) -> Frame:
        """The frame with its stamp on our clock."""
        if self._is_ours(frame):
            return frame
        offset_ns = self._offset_ns(frame)
        return replace(
            frame,
            captured_ns=frame.captured_ns + offset_ns,
            clock=self._clock.name,
            clock_id=None,
        )

    def _is_ours(self, frame: Frame) -> bool:
        if frame.clock != self._clock.name:
            return False
        return self._is_local if frame.clock_id is None else frame.clock_id == clock_domain()

    def _offset_ns(self, frame: Frame) -> int:
        least_ns, now_ns = frame.received_ns - frame.captured_ns, frame.received_ns
        sender = self._senders.get(frame.stream)
        if sender is None or sender.session_id != frame.session_id:
            if len(self._senders) >= _MAX_SENDERS:
                self._senders.clear()  # made-up names must not grow without bound
            sender = _SenderClock(frame.session_id, now_ns + _SPAN_NS, least_ns, least_ns)
            self._senders[frame.stream] = sender
        elif now_ns >= sender.until_ns:
            sender.until_ns, sender.before_ns = now_ns + _SPAN_NS, sender.least_ns
            sender.least_ns = least_ns
        sender.least_ns = min(sender.least_ns, least_ns)
        return min(sender.least_ns, sender.before_ns)
