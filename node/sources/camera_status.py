"""The connection status of a camera, in words for logs and `health`."""

from __future__ import annotations

import logging
import threading

from ureca.clock import Clock
from ureca.node.config import SourceConfig

_SLACK = 1.25
"""A call may take this many times its timeout before it is reported; it may still return."""
_log = logging.getLogger(__name__)


class ConnectionStatus:
    """The status of the camera or stream `name`; its methods may be called from any thread."""

    def __init__(self, name: str, source: SourceConfig, clock: Clock) -> None:
        self.outages = 0
        self._name = name
        self._read_ns = int(source.read_timeout_s * 1e9)
        self._open_ns = int(source.open_timeout_s * 1e9)
        self._clock = clock
        self._lock = threading.Lock()
        self._busy_ns: int | None = None
        self._is_open = False
        self._bad_ns: int | None = None
        self._bad_why = ""
        self._down: tuple[str, int] | None = None

    def busy(self, *, is_open: bool) -> None:
        """A call into the driver begins: to open, or to read what is open."""
        with self._lock:
            self._busy_ns, self._is_open = self._clock.now_ns(), is_open

    def came(self) -> None:
        """Data of an image arrived; it is not validated yet."""
        with self._lock:
            self._bad_ns = self._bad_ns or self._clock.now_ns()

    def bad(self, why: str) -> None:
        """The data is not an image; `why` says what to do."""
        with self._lock:
            self._bad_why = why

    def up(self) -> None:
        """A picture was good."""
        with self._lock:
            down, self._down, self._bad_ns, self._bad_why = self._down, None, None, ""
        if down is not None:
            seconds = (self._clock.now_ns() - down[1]) / 1e9
            _log.info("%s is back after %.1f s", self._name, seconds)

    def is_late(self) -> bool:
        """Whether the call into the driver took as long as it may."""
        busy_ns = self._busy_ns
        return busy_ns is not None and self._clock.now_ns() - busy_ns >= 0.9 * self._read_ns

    def ended(self) -> None:
        """There was no next image, or none in time."""
        if self.is_late():
            self.down(f"no picture within {self._read_ns / 1e9:g} s")
        else:
            self.down("it ended: unplugged, closed by the other side, or not readable any more")

    def down(self, why: str) -> None:
        """The source gives no images; logged once for each outage and reason."""
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
            now_ns, down, bad_ns = self._clock.now_ns(), self._down, self._bad_ns
            why = f": {self._bad_why}" if self._bad_why else ""
            busy_for_ns = 0 if self._busy_ns is None else now_ns - self._busy_ns
            is_open = self._is_open
        if down is not None:
            return (f"{self._name} is down for {(now_ns - down[1]) / 1e9:.0f} s: {down[0]}",)
        if busy_for_ns > _SLACK * (self._read_ns if is_open else self._open_ns):
            what = "no picture" if is_open else "does not open"
            return (f"{self._name}: {what} for {busy_for_ns / 1e9:.1f} s",)
        if bad_ns is not None and now_ns - bad_ns > self._read_ns:
            return (f"{self._name}: no picture decodes for {(now_ns - bad_ns) / 1e9:.0f} s{why}",)
        return ()
