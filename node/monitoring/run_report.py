"""What a run amounted to: collected from the published events, printed at the end."""

from __future__ import annotations

import logging
import statistics
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from ureca.errors import ConfigError
from ureca.node.counters import Balance
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import (
    AnyEvent,
    CaptionFinal,
    TrackEnd,
    TrackEvent,
    TrackLost,
    TrackRecovered,
)

_MAX_AGES = 1_000
"""The median age is that of so many captions: the latest."""
_MAX_REGIONS = 1_000
_NO_REGIONS = (
    "regions     none were given, so there was nothing to caption: give --box, --point or "
    "--prompts,\n            click on them in the browser (--view), send masks with the frames, "
    "or let SAM 2 find them (docs/tracking.md)"
)
_ACCOUNTED = "every frame and caption is accounted for"
_NOT_ACCOUNTED = "NOT EVERY FRAME OR CAPTION IS ACCOUNTED FOR"
_REASONS = {"superseded": "skipped for a newer frame"}
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RegionReport:
    """One region's story: label, captions in order of publication, how often it was lost and
    found.
    """

    rid: str
    label: str | None = None
    captions: int = 0
    last_text: str = ""
    lost: int = 0
    recovered: int = 0


@dataclass
class RunReport:
    """A sink for published events; bounded."""

    regions: dict[tuple[str, str], RegionReport] = field(default_factory=dict)
    captions: int = 0
    worst_age_ms: float = 0.0
    _ages_ms: array[float] = field(
        init=False, repr=False, default_factory=lambda: array("d", bytes(8 * _MAX_AGES))
    )

    def __call__(self, event: AnyEvent) -> None:
        """Take note of one event."""
        if isinstance(event, TrackEvent | CaptionFinal):
            key = (event.stream, event.rid)
            if key not in self.regions and len(self.regions) < _MAX_REGIONS:
                self.regions[key] = RegionReport(event.rid, event.label)
            if key in self.regions:
                self._note(self.regions[key], event)
        if isinstance(event, CaptionFinal):
            self._ages_ms[self.captions % _MAX_AGES] = event.age_at_pub_ms
            self.captions += 1
            self.worst_age_ms = max(self.worst_age_ms, event.age_at_pub_ms)

    @staticmethod
    def _note(region: RegionReport, event: TrackEvent | CaptionFinal) -> None:
        if isinstance(event, CaptionFinal):
            region.captions += 1
            region.last_text = event.text
        region.lost += isinstance(event, TrackLost)
        region.recovered += isinstance(event, TrackRecovered)

    def text(self, balance: Balance, *, seconds: float) -> str:
        """The summary, for people."""
        dropped = ", ".join(
            f"{n} {_REASONS.get(why, why)}" for why, n in sorted(balance.frames_dropped.items())
        )
        ended = ", ".join(f"{n} {end}" for end, n in sorted(balance.requests_ended.items()))
        ages = (
            f"{statistics.median(self._ages_ms[: self.captions]):.0f} ms median, "
            f"{self.worst_age_ms:.0f} ms worst"
            if self.captions
            else "no captions"
        )
        frames_dropped = sum(balance.frames_dropped.values())
        frames = f"{balance.frames_processed} processed + {frames_dropped} dropped"
        fps = balance.frames_processed / max(seconds, 1e-9)
        lines = [
            f"frames      {balance.frames_in} in = {frames} ({dropped or 'none'})",
            f"captions    {balance.requests_in} requested" + (f" = {ended}" if ended else ""),
            f"age         {ages} (capture to publication, {self.captions} captions)",
            f"time        {seconds:.1f} s, {fps:.1f} frames/s",
            f"accounting  {_ACCOUNTED if balance.closed else _NOT_ACCOUNTED}",
        ]
        if not balance.closed:
            still = f"{balance.frames_in_flight} frames, {balance.requests_in_flight} captions"
            lines.append(f"open        {still}")
        if not self.regions:
            lines.append(_NO_REGIONS)
        if balance.regions_refused:
            lines.append(f"refused     {balance.regions_refused} regions")
        if balance.events_dropped:
            lines.append(f"unsent      {balance.events_dropped} events")
        return "\n".join([*lines, *self._region_lines()])

    def _region_lines(self) -> list[str]:
        width = max((len(region.rid) for region in self.regions.values()), default=0)
        return [
            f"  {region.rid:<{width}}  {region.last_text or '(no caption)'}"
            + (f"  [{region.label}]" if region.label else "")
            + (f"  lost {region.lost}, found {region.recovered}" if region.lost else "")
            for region in self.regions.values()
        ]


class EventFile:
    """Appends every event as one JSON line. A full disk ends the file, not the node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: IO[str] | None = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write events to {path}: {error.strerror}") from error

    def __call__(self, event: AnyEvent) -> None:
        """Write one event; bytes (`session_id`) become base64."""
        if self._file is None:
            return
        try:
            self._file.write(msgspec.json.encode(event).decode("utf-8") + "\n")
        except OSError:
            _log.exception("events are no longer written to %s", self._path)
            self.close()

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


Printer = Callable[[str], None]


def line_printer(show: Printer) -> Callable[[AnyEvent], None]:
    """A sink that prints one line per final caption, failure, loss and recovery."""

    def sink(event: AnyEvent) -> None:
        if isinstance(event, CaptionFinal):
            show(
                f"{event.rid:<24} {event.text}  ({event.trigger}, score {event.score or 0:.2f}, "
                f"{event.age_at_pub_ms:.0f} ms)"
            )
        elif isinstance(event, TrackLost | TrackEnd) and event.reason != "source_end":
            show(f"{event.rid:<24} {event_kind(event).removeprefix('track.')}: {event.reason}")
        elif isinstance(event, TrackRecovered):
            show(f"{event.rid:<24} recovered")

    return sink
