"""`ureca watch`: regions and captions of a node, live.

A table that redraws when stdout is a terminal and `rich` is installed, plain lines otherwise, one
JSON object per event with `--json`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ureca.client.client import Client
from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.errors import MissingExtraError, RequestError
from ureca.extras import require
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import (
    AnyEvent,
    CaptionAbort,
    CaptionDelta,
    CaptionError,
    CaptionFinal,
    CaptionSame,
    CaptionStart,
    RegionEvent,
    TrackEnd,
    TrackLost,
    TrackNew,
    TrackRecovered,
)
from ureca.security.keys import add_key_options, keys_of

_POLL_S = 0.2


@dataclass
class Row:
    """What is known about one region."""

    stream: str
    rid: str
    state: str = "alive"
    text: str = ""
    writing: str | None = None
    trigger: str = ""
    score: float | None = None
    cap_ns: int | None = None

    def age_s(self, now_ns: int) -> float | None:
        """Seconds since the newest frame that the caption is about was captured."""
        return None if self.cap_ns is None else (now_ns - self.cap_ns) / 1e9


@dataclass
class Board:
    """The rows of the table; pure: events in, rows out."""

    max_rows: int = 256
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def apply(self, event: AnyEvent) -> None:
        """Take one event into account."""
        if not isinstance(event, RegionEvent):
            return
        key = (event.stream, event.rid)
        if isinstance(event, TrackEnd):
            self.rows.pop(key, None)
            return
        if key not in self.rows and len(self.rows) >= self.max_rows:
            del self.rows[next(iter(self.rows))]
        row = self.rows.setdefault(key, Row(event.stream, event.rid))
        _apply_track(row, event)
        _apply_caption(row, event)


def _apply_track(row: Row, event: RegionEvent) -> None:
    if isinstance(event, TrackLost):
        row.state = f"lost ({event.reason})"
    elif isinstance(event, TrackNew | TrackRecovered):
        row.state = "alive"


def _apply_caption(row: Row, event: RegionEvent) -> None:
    if isinstance(event, CaptionStart):
        row.writing, row.trigger = "", event.trigger
    elif isinstance(event, CaptionDelta) and row.writing is not None:
        row.writing = row.writing[: event.offset] + event.text
    elif isinstance(event, CaptionFinal):
        row.writing, row.text, row.score = None, event.text, event.score
        row.trigger, row.cap_ns = event.trigger, event.cap_ns_last
    elif isinstance(event, CaptionSame):
        row.writing, row.cap_ns = None, event.cap_ns_last
    elif isinstance(event, CaptionAbort | CaptionError):
        row.writing = None


def line(event: AnyEvent) -> str | None:
    """An event as one line of text, None for those without text."""
    if not isinstance(event, RegionEvent):
        return None
    said = _words(event)
    return (
        None if said is None else f"{event.stream}/{event.rid:<12} {event_kind(event):<13} {said}"
    )


def _words(event: RegionEvent) -> str | None:
    if isinstance(event, CaptionFinal):
        score = "" if event.score is None else f" score {event.score:.2f}"
        return f"{event.text!r} ({event.trigger},{score} {event.age_at_pub_ms:.0f} ms old)"
    if isinstance(event, CaptionError):
        return f"{event.code}: {event.msg}"
    if isinstance(event, CaptionAbort | TrackLost | TrackEnd):
        return event.reason
    if isinstance(event, TrackNew | TrackRecovered):
        return f"at {list(event.box)}"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Watch until the duration is over or Ctrl-C."""
    options = _parser().parse_args(argv)
    with Client.connect(options.events, options.requests, keys=keys_of(options)) as client:
        show = _shower(client, options)
        until = None if options.duration is None else time.monotonic() + options.duration
        show(_live(client, options.stream, until))
        if client.missed:
            print(f"ureca watch: {client.missed} events were missed", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca watch",
        description="Watch a running node's captions live.",
        epilog="example: ureca watch --events tcp://127.0.0.1:5601 --json --duration 10",
    )
    parser.add_argument(
        "--events", default=EVENTS_ADDRESS, help="address of the node's events [%(default)s]"
    )
    parser.add_argument(
        "--requests", default=REQUESTS_ADDRESS, help="address of the node's requests [%(default)s]"
    )
    add_key_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per event")
    parser.add_argument("--stream", help="only this stream")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    return parser


def _live(client: Client, stream: str | None, until: float | None) -> Iterator[AnyEvent | None]:
    """Events as they come, None at least every `_POLL_S` seconds so that ages move on."""
    while until is None or time.monotonic() < until:
        event = next(client.events(timeout_s=_POLL_S), None)
        if event is None or stream is None or event.stream in (stream, ""):
            yield event


def _shower(
    client: Client, options: argparse.Namespace
) -> Callable[[Iterator[AnyEvent | None]], None]:
    if options.json:
        return _show_json
    if not sys.stdout.isatty():
        return _show_lines
    try:
        require("rich", extra="node")
    except MissingExtraError:
        return _show_lines
    return lambda events: _show_table(itertools.chain(_known(client), events))


def _known(client: Client) -> Iterator[AnyEvent]:
    """What the node already knows; a node that does not answer is only listened to."""
    try:
        yield from client.snapshot()
    except RequestError as error:
        print(f"ureca watch: {error}; listening", file=sys.stderr)


def _show_json(events: Iterator[AnyEvent | None]) -> None:
    for event in events:
        if event is not None:
            print(msgspec.json.encode(event).decode(), flush=True)


def _show_lines(events: Iterator[AnyEvent | None]) -> None:
    for event in events:
        if event is not None and (said := line(event)) is not None:
            print(said, flush=True)


def _show_table(events: Iterator[AnyEvent | None]) -> None:
    board, live = Board(), require("rich.live", extra="node")
    with live.Live(auto_refresh=False) as screen:
        drawn_at = 0.0
        for event in events:
            if event is not None:
                board.apply(event)
            if time.monotonic() - drawn_at >= 0.05:
                screen.update(table(board, time.monotonic_ns()), refresh=True)
                drawn_at = time.monotonic()


def table(board: Board, now_ns: int) -> Any:  # a rich.table.Table; rich is optional
    """The board as a rich table: what is being written is dim with a cursor behind it."""
    drawn = require("rich.table", extra="node").Table(title="ureca", expand=True)
    text = require("rich.text", extra="node").Text
    for heading in ("stream", "region", "caption", "age", "why", "score", "state"):
        if heading == "caption":
            drawn.add_column(heading, ratio=1)
        else:  # a narrow terminal cuts long names, not the captions
            drawn.add_column(heading, no_wrap=True, max_width=14)
    for row in board.rows.values():
        age_s = row.age_s(now_ns)
        drawn.add_row(
            row.stream,
            row.rid,
            text(row.text) if row.writing is None else text(row.writing + "▌", style="dim"),
            "" if age_s is None else f"{age_s:.1f} s",
            row.trigger,
            "" if row.score is None else f"{row.score:.2f}",
            row.state,
        )
    return drawn
