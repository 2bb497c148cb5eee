"""Collects the summary of a run from the published events and prints it at the end."""

from __future__ import annotations

import contextlib
import logging
import statistics
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from ureca.confidence import tell_confidence
from ureca.errors import ConfigError
from ureca.log import printable
from ureca.node.counters import Balance
from ureca.node.monitoring.prompt_report import PromptReport
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import (
    AnyEvent,
    CaptionError,
    CaptionFinal,
    TextEvent,
    TextFound,
    TrackEnd,
    TrackEvent,
    TrackLost,
    TrackRecovered,
)

_MAX_AGES = 1_000
"""The median age is that of so many captions: the latest."""
_MAX_REGIONS = 1_000
_MAX_REFUSALS = 5
_NO_PROMPTS = PromptReport()
_INDENT = "\n" + 12 * " "
NO_REGIONS_AFTER_S = 3.0
"""So long after the first frame the live table says how to give regions, if there are none."""
NO_REGIONS_HINT = (
    "nothing to caption yet: give --box, --point, --prompts or --auto, or click in --view"
)
_NO_REGIONS = (
    "regions     none were given, so there was nothing to caption: give --box, --point or "
    "--prompts,\n            click on them in the browser (--view), send masks with the frames, "
    "or let a\n            segmenter find them (--auto, docs/tracking.md)"
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
    problem: str = ""
    """Why the last caption that was asked for did not come."""
    lost: int = 0
    recovered: int = 0


@dataclass(slots=True)
class TextReport:
    """What became of one text: where it was found last, or how sure it is that it is absent."""

    stream: str
    found: str = ""
    none: float | None = None

    def text(self) -> str:
        """For people."""
        if self.found:
            return f"found as {self.found}"
        if self.none is None:
            return "not asked: there was no region that it could be true of"
        return f"not found (P(none) {self.none:.2f} at the last look)"


@dataclass
class RunReport:
    """A sink for published events; bounded. `standing` are the texts of the configuration."""

    standing: tuple[str, ...] = ()

    regions: dict[tuple[str, str], RegionReport] = field(default_factory=dict)
    texts: dict[tuple[str, str], TextReport] = field(default_factory=dict)
    """By stream and text."""
    captions: int = 0
    worst_age_ms: float = 0.0
    _ages_ms: array[float] = field(
        init=False, repr=False, default_factory=lambda: array("d", bytes(8 * _MAX_AGES))
    )

    def __call__(self, event: AnyEvent) -> None:
        """Take note of one event."""
        if isinstance(event, TrackEvent | CaptionFinal | CaptionError):
            key = (event.stream, event.rid)
            if key not in self.regions and len(self.regions) < _MAX_REGIONS:
                self.regions[key] = RegionReport(event.rid)
            if key in self.regions:
                self._note(self.regions[key], event)
        if isinstance(event, TextEvent):
            self._note_text(event)
        if isinstance(event, CaptionFinal):
            self._ages_ms[self.captions % _MAX_AGES] = event.age_at_pub_ms
            self.captions += 1
            self.worst_age_ms = max(self.worst_age_ms, event.age_at_pub_ms)

    def _note_text(self, event: TextEvent) -> None:
        key = (event.stream, event.text)
        if key not in self.texts and len(self.texts) < _MAX_REGIONS:
            self.texts[key] = TextReport(event.stream)
        if key in self.texts:
            report = self.texts[key]
            report.none = event.none
            if isinstance(event, TextFound):
                names = ", ".join(f"{one.rid} (P {one.probability:.2f})" for one in event.regions)
                report.found = f"{names} in frame {event.seq}"

    @staticmethod
    def _note(region: RegionReport, event: TrackEvent | CaptionFinal | CaptionError) -> None:
        if isinstance(event, CaptionError):
            region.problem = f"{event.code}, {event.msg}"
            return
        region.label = event.label or region.label
        if isinstance(event, CaptionFinal):
            region.captions += 1
            region.last_text = event.text
        region.lost += isinstance(event, TrackLost)
        region.recovered += isinstance(event, TrackRecovered)

    def text(
        self,
        balance: Balance,
        *,
        seconds: float,
        found: Sequence[str] = (),
        prompts: PromptReport = _NO_PROMPTS,
        sources: Sequence[str] = (),
    ) -> str:
        """The summary, for people. `found`: lines on what a segmenter found by itself; `sources`:
        where frames were to come from, and what is known of those that failed.
        """
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
        lines += found
        lines += explain_regions(balance, prompts, sources, has_regions=bool(self.regions or found))
        others_refused = balance.regions_refused - len(prompts.refused)
        if others_refused > 0:
            lines.append(
                f"refused     {others_refused} regions of frames and requests; see the log"
            )
        if balance.events_dropped:
            lines.append(f"unsent      {balance.events_dropped} events")
        return "\n".join([*lines, *self._text_lines(), *self._region_lines()])

    def _text_lines(self) -> list[str]:
        """One line for each standing text, found or not, and for each text that was asked for."""
        told = {text for _, text in self.texts}
        silent = {("", text): TextReport("") for text in self.standing if text not in told}
        several = len({stream for stream, _ in self.texts}) > 1
        return [
            f"text        {f'{stream}: ' if several and stream else ''}{text!r}: {report.text()}"
            for (stream, text), report in (*self.texts.items(), *silent.items())
        ]

    def _region_lines(self) -> list[str]:
        width = max((len(region.rid) for region in self.regions.values()), default=0)
        return [
            f"  {region.rid:<{width}}  {_tell_words(region)}"
            + (f"  [{printable(region.label)}]" if region.label else "")
            + (f"  lost {region.lost}, found {region.recovered}" if region.lost else "")
            for region in self.regions.values()
        ]


def _tell_words(region: RegionReport) -> str:
    why = f": {printable(region.problem)}" if region.problem else ""
    return printable(region.last_text) or f"(no caption{why})"


def explain_regions(
    balance: Balance, prompts: PromptReport, sources: Sequence[str], *, has_regions: bool
) -> list[str]:
    """Why there is less to caption than was wanted: the first reason that applies to all of it, and
    what became of single prompts.
    """
    if sources and not balance.frames_processed:
        came = (
            f"none of {balance.frames_in} frames could be used"
            if balance.frames_in
            else "no frame came"
        )
        return [f"regions     {came}" + "".join(f"{_INDENT}{source}" for source in sources)]
    refused = [f"refused     a prompt: {why}" for why in prompts.refused[:_MAX_REFUSALS]]
    if len(prompts.refused) > _MAX_REFUSALS:
        refused.append(f"refused     {len(prompts.refused) - _MAX_REFUSALS} more prompts")
    waiting = [f"waiting     {line}, which never came" for line in prompts.waiting_lines()]
    if refused or waiting or has_regions or prompts.begun:
        return refused + waiting
    return [_NO_REGIONS]


def is_failure(balance: Balance, prompts: PromptReport) -> bool:
    """Whether a run could not do what it was asked for: no frame came, or each prompt was
    refused.
    """
    return not balance.frames_processed or 0 < prompts.given == len(prompts.refused)


class EventFile:
    """Appends every event as one JSON line. A full disk ends the file, not the node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failure: str | None = None
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
        except OSError as error:
            self._failure = f"events are no longer written to {self._path}: {error.strerror}"
            _log.error("%s; the node goes on without them", self._failure)
            with contextlib.suppress(OSError):  # closing writes what could not be written
                self.close()

    def reasons(self) -> tuple[str, ...]:
        """Why events are not written any more, for `health`."""
        return () if self._failure is None else (self._failure,)

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
                f"{event.rid:<24} {printable(event.text)}  ({event.trigger}, "
                f"{tell_confidence(event)}, {event.age_at_pub_ms:.0f} ms)"
            )
        elif isinstance(event, TrackLost | TrackEnd) and event.reason != "source_end":
            show(f"{event.rid:<24} {event_kind(event).removeprefix('track.')}: {event.reason}")
        elif isinstance(event, TrackRecovered):
            show(f"{event.rid:<24} recovered")
        elif isinstance(event, TextFound):
            names = ", ".join(f"{one.rid} ({one.probability:.2f})" for one in event.regions)
            show(f"{'text':<24} {event.text!r}: {names}")

    return sink
