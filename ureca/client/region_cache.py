"""The last caption of each region, and until when it is valid."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ureca.protocol.events import AnyEvent, CaptionFinal, CaptionSame, RegionEvent, TrackEnd

Key = tuple[str, str]
"""A stream and a region."""


@dataclass(frozen=True, slots=True)
class Said:
    """One caption: about the frame captured at `cap_ns` on `clk`, good for `ttl_ms` from then."""

    text: str
    rev: int
    cap_ns: int
    clk: str
    ttl_ms: int
    score: float | None
    trigger: str

    def holds(self, now_ns: int) -> bool:
        """Whether it is valid at `now_ns` of `clk`."""
        return now_ns < self.cap_ns + self.ttl_ms * 1_000_000


class Captions:
    """The last caption of every region that has not ended; pass it all events."""

    def __init__(self, max_regions: int = 4096) -> None:
        self._said: dict[Key, Said] = {}
        self._max = max_regions

    def apply(self, event: AnyEvent) -> None:
        """Apply one event; other kinds change nothing."""
        if not isinstance(event, RegionEvent):
            return
        key = (event.stream, event.rid)
        if isinstance(event, CaptionFinal):
            self._said[key] = _said(event)
            if len(self._said) > self._max:
                del self._said[next(iter(self._said))]
        elif isinstance(event, CaptionSame) and key in self._said:
            self._said[key] = replace(
                self._said[key], cap_ns=event.cap_ns_last, ttl_ms=event.ttl_ms
            )
        elif isinstance(event, TrackEnd):
            self._said.pop(key, None)

    def get(self, stream: str, rid: str) -> Said | None:
        """The last caption of a region, valid or expired."""
        return self._said.get((stream, rid))

    def clear(self) -> None:
        """Remove everything, because the node was restarted."""
        self._said.clear()


def _said(event: CaptionFinal) -> Said:
    return Said(
        text=event.text,
        rev=event.rev,
        cap_ns=event.cap_ns_last,
        clk=event.clk,
        ttl_ms=event.ttl_ms,
        score=event.score,
        trigger=event.trigger,
    )
