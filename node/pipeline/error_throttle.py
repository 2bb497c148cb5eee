"""Limits the error events of refused regions: one event per interval and region, although a sender
may repeat an error 30 times a second. Every refusal is counted.
"""

from __future__ import annotations

from collections.abc import Iterable

from ureca.datatypes import Refusal

_MAX_REGIONS = 256


class ErrorThrottle:
    """The last reported refusals of one stream; bounded."""

    def __init__(self, *, interval_s: float) -> None:
        self._interval_ns = int(interval_s * 1e9)
        self._said_ns: dict[str | None, int] = {}

    def due(self, refused: Iterable[Refusal], *, now_ns: int) -> list[Refusal]:
        """Those of `refused` that were not reported within the interval."""
        return [refusal for refusal in refused if self._is_due(refusal.rid, now_ns)]

    def _is_due(self, rid: str | None, now_ns: int) -> bool:
        said_ns = self._said_ns.get(rid)
        if said_ns is not None and now_ns - said_ns < self._interval_ns:
            return False
        self._said_ns.pop(rid, None)
        self._said_ns[rid] = now_ns
        if len(self._said_ns) > _MAX_REGIONS:
            del self._said_ns[next(iter(self._said_ns))]  # the one that was silent longest
        return True
