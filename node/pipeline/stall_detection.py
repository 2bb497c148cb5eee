"""Detects a frozen camera and a hung captioner, in words for `health`."""

from __future__ import annotations

from collections.abc import Iterable

from ureca.clock import Clock
from ureca.node.pipeline.stream import Stream

_STUCK_NS = 1_000_000_000
"""A captioner whose requests have all ended is done within this, or hangs."""


class StallDetector:
    """Notices a captioner that stays busy although every request of it has ended."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_ns: int | None = None

    def look(self, *, is_stuck: bool) -> None:
        """Told at every turn."""
        if not is_stuck:
            self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = self._clock.now_ns()

    @property
    def is_on(self) -> bool:
        """Whether it has lasted; may be asked from any thread."""
        since_ns = self._since_ns
        return since_ns is not None and self._clock.now_ns() - since_ns > _STUCK_NS


def health_issues(streams: Iterable[tuple[str, Stream]], *, hangs: bool) -> list[str]:
    """What is wrong with the streams and, when it `hangs`, with the captioner."""
    found = [_frozen(name, stream) for name, stream in streams if stream.is_frozen]
    if hangs:
        found.append("the captioner does not return from a batch that was given up")
    return found


def _frozen(name: str, stream: Stream) -> str:
    seconds = stream.facts()["unchanged_ms"] / 1e3
    return (
        f"{name}: the picture has been the same to the last bit for {seconds:.0f} s, nothing is "
        "renewed from it; is the camera frozen? (source.frozen_s)"
    )
