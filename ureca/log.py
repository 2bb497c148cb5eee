"""Logging: one line format for every process, and warnings with a rate limit.

A library does not configure logging; commands call `configure` once.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field

from ureca.clock import Clock

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"


def printable(text: str) -> str:
    """`text` as a terminal may show it: control characters and marks of direction are escaped."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


class _PlainFormatter(logging.Formatter):
    """Names of files and regions from outside must not steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).split("\n"))


def configure(level: str = "info") -> None:
    """Send the project's log lines to stderr; a second call changes only the level."""
    logger = logging.getLogger("ureca")
    logger.setLevel(level.upper())
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_PlainFormatter(_FORMAT, datefmt="%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False


@dataclass
class RateLimitedLog:
    """At most one warning per key and interval; the next one has the number of suppressed ones."""

    logger: logging.Logger
    clock: Clock
    interval_s: float = 5.0
    max_keys: int = 256
    _last: dict[str, tuple[int, int]] = field(default_factory=dict)

    def warning(self, key: str, message: str, *, error: BaseException | None = None) -> bool:
        """Log `message` unless its key was logged just now; returns whether it was logged. With
        `error` it is an error, and its traceback follows.
        """
        now_ns = self.clock.now_ns()
        at_ns, held = self._last.get(key, (None, 0))
        if at_ns is not None and now_ns - at_ns < self.interval_s * 1e9:
            self._last[key] = (at_ns, held + 1)
            return False
        if len(self._last) >= self.max_keys:
            self._last.clear()  # keys from outside must not grow without bound
        self._last[key] = (now_ns, 0)
        level = logging.WARNING if error is None else logging.ERROR
        note = f" ({held} more like it held back)" if held else ""
        self.logger.log(level, "%s%s", message, note, exc_info=error)
        return True
