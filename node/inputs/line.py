"""Whether a camera is there, in words for logs and `health`."""

from __future__ import annotations

import logging
import threading

from ureca.clock import Clock
from ureca.node.config import SourceConfig

_HANGS_S = 2.0
"""A call that takes this much longer than its timeout hangs in the driver."""
_log = logging.getLogger(__name__)


class Line:
    """What is known of one camera or stream called `name`; any thread may write and ask."""

    def __init__(self, name: str, source: SourceConfig, clock: Clock) -> None:
        self.outages = 0
        self._name = name
        self._read_ns = int(source.read_timeout_s * 1e9)
        longest_s = max(source.read_timeout_s, source.open_timeout_s)
        self._hangs_ns = int((longest_s + _HANGS_S) * 1e9)
        self._clock = clock
        self._lock = threading.Lock()
        self._busy_ns: int | None = None
        self._bad_ns: int | None = None
        self._down: tuple[str, int] | None = None

    def busy(self) -> None:
        """A call into the driver begins."""
        self._busy_ns = self._clock.now_ns()

    def came(self) -> None:
        """A picture came; whether it is one is not known yet."""
        with self._lock:
            self._bad_ns = self._bad_ns or self._clock.now_ns()

    def up(self) -> None:
        """A picture was good."""
        with self._lock:
            down, self._down, self._bad_ns = self._down, None, None
        if down is not None:
            seconds = (self._clock.now_ns() - down[1]) / 1e9
            _log.info("%s is back after %.1f s", self._name, seconds)

    def ended(self) -> None:
        """There was no next picture."""
        waited_ns = self._clock.now_ns() - (self._busy_ns or 0)
        if waited_ns >= 0.9 * self._read_ns:
            self.down(f"no picture within {self._read_ns / 1e9:g} s")
        else:
            self.down("it ended: unplugged, closed by the other side, or not readable any more")

    def down(self, why: str) -> None:
        """It gives no pictures; said once for each outage and reason."""
        with self._lock:
            before = self._down
            since_ns = self._clock.now_ns() if before is None else before[1]
            self._down, self._busy_ns, self._bad_ns = (why, since_ns), None, None
            self.outages += before is None
        if before is None or before[0] != why:
            _log.warning("%s is down: %s; trying again", self._name, why)

    def reasons(self) -> tuple[str, ...]:
        """What is wrong, if anything is."""
        with self._lock:
            now_ns, down, busy_ns, bad_ns = (
                self._clock.now_ns(),
                self._down,
                self._busy_ns,
                self._bad_ns,
            )
        if down is not None:
            return (f"{self._name} is down for {(now_ns - down[1]) / 1e9:.0f} s: {down[0]}",)
        if busy_ns is not None and now_ns - busy_ns > self._hangs_ns:
            seconds = (now_ns - busy_ns) / 1e9
            return (f"{self._name}: its driver has not returned for {seconds:.0f} s",)
        if bad_ns is not None and now_ns - bad_ns > self._read_ns:
            seconds = (now_ns - bad_ns) / 1e9
            return (f"{self._name}: for {seconds:.0f} s no picture could be decoded",)
        return ()
