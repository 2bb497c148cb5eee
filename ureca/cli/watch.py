"""`ureca watch`: regions and captions of a node, live.

A table that redraws when stdout is a terminal and `rich` is installed, plain lines otherwise, one
JSON object per event with `--json`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ureca.client.client import Client
from ureca.client.region_cache import CachedRegion, RegionCache
from ureca.client.shared import EVENTS_ADDRESS, REQUESTS_ADDRESS
from ureca.confidence import tell_confidence
from ureca.errors import MissingExtraError, RequestError
from ureca.extras import require
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import (
    AnyEvent,
    CaptionAbort,
    CaptionError,
    CaptionFinal,
    RegionEvent,
    TextEvent,
    TextFound,
    TrackEnd,
    TrackLost,
    TrackNew,
    TrackRecovered,
)
from ureca.security.keys import add_key_options, keys_of

_POLL_S = 0.2
_HELLO_S = 0.5
MAX_ROWS = 256
"""Regions in the table; of more, those that began first are left out."""


def line(event: AnyEvent) -> str | None:
    """An event as one line of text, None for those without text."""
    if isinstance(event, TextEvent):
        return f"{event.stream:<14} {event_kind(event):<15} {_answer(event)}"
    if not isinstance(event, RegionEvent):
        return None
    said = _words(event)
    return (
        None if said is None else f"{event.stream}/{event.rid:<12} {event_kind(event):<15} {said}"
    )


def _answer(event: TextEvent) -> str:
    if not isinstance(event, TextFound):
        return f"{event.text!r} is not there (P(none) {event.none:.2f})"
    where = ", ".join(f"{one.rid} ({one.probability:.2f})" for one in event.regions)
    return f"{event.text!r}: {where}"


def _words(event: RegionEvent) -> str | None:
    if isinstance(event, CaptionFinal):
        sure, age_ms = tell_confidence(event), event.age_at_pub_ms
        return f"{event.text!r} ({event.trigger}, {sure}, {age_ms:.0f} ms old)"
    if isinstance(event, CaptionError):
        return f"{event.code}: {event.msg}"
    if isinstance(event, CaptionAbort | TrackLost | TrackEnd):
        return event.reason
    if isinstance(event, TrackNew | TrackRecovered):
        return f"at {list(event.box)}"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Watch until the duration is over or Ctrl-C. Returns 1 if nothing was there all that time."""
    options = _parser().parse_args(argv)
    with Client.connect(options.events, options.requests, keys=keys_of(options)) as client:
        until = None if options.duration is None else time.monotonic() + options.duration
        events = _Counted(_live(client, options.stream, until))
        is_there = _say_who_is_there(client, options)
        show = _shower(client, options)
        show(events)
        if client.missed:
            print(f"ureca watch: {client.missed} events were missed", file=sys.stderr)
    return 0 if is_there or events.count else 1


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


def _say_who_is_there(client: Client, options: argparse.Namespace) -> bool:
    """Say at once that nobody answers: otherwise an empty screen is all there is to see. False if
    nobody does.
    """
    seconds = min(_HELLO_S, options.duration or _HELLO_S)
    try:
        client.call("hello", deadline_s=seconds)
    except RequestError as error:
        if error.code != "DEADLINE":
            print(f"ureca watch: {error}", file=sys.stderr)
            return True
        print(
            f"ureca watch: no node answers at {options.requests} yet; waiting. Start one with "
            "`ureca run`; if it uses keys, yours may be missing from its list",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True


def _live(client: Client, stream: str | None, until: float | None) -> Iterator[AnyEvent | None]:
    """Events as they come, None at least every `_POLL_S` seconds so that ages move on."""
    while until is None or time.monotonic() < until:
        event = next(client.events(timeout_s=_POLL_S), None)
        if event is None or stream is None or event.stream in (stream, ""):
            yield event


class _Counted:
    """Events as they come, counted."""

    def __init__(self, events: Iterator[AnyEvent | None]) -> None:
        self._events, self.count = events, 0

    def __iter__(self) -> Iterator[AnyEvent | None]:
        for event in self._events:
            self.count += event is not None
            yield event


def _shower(
    client: Client, options: argparse.Namespace
) -> Callable[[Iterable[AnyEvent | None]], None]:
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


def _show_json(events: Iterable[AnyEvent | None]) -> None:
    for event in events:
        if event is not None:
            print(msgspec.json.encode(event).decode(), flush=True)


def _show_lines(events: Iterable[AnyEvent | None]) -> None:
    for event in events:
        if event is not None and (said := line(event)) is not None:
            print(said, flush=True)


def _show_table(events: Iterable[AnyEvent | None]) -> None:
    regions, live = RegionCache(MAX_ROWS), require("rich.live", extra="node")
    with live.Live(auto_refresh=False) as screen:
        drawn_at = 0.0
        for event in events:
            if event is not None:
                regions.apply(event)
            if time.monotonic() - drawn_at >= 0.05:
                screen.update(table(regions, time.monotonic_ns()), refresh=True)
                drawn_at = time.monotonic()


def table(regions: RegionCache, now_ns: int) -> Any:  # a rich.table.Table; rich is optional
    """The regions as a rich table: what is being written is dim with a cursor behind it."""
    drawn = require("rich.table", extra="node").Table(title="ureca", expand=True)
    text = require("rich.text", extra="node").Text
    for heading in ("stream", "region", "caption", "age", "why", "sure", "state"):
        if heading == "caption":
            drawn.add_column(heading, ratio=1)
        else:  # a narrow terminal cuts long names, not the captions
            drawn.add_column(heading, no_wrap=True, max_width=14)
    for region in regions:
        caption, draft = region.caption, region.draft
        written = "" if caption is None else caption.text
        drawn.add_row(
            region.stream,
            region.rid,
            text(written) if draft is None else text(draft + "▌", style="dim"),
            "" if caption is None else f"{(now_ns - caption.captured_ns) / 1e9:.1f} s",
            region.trigger,
            "" if caption is None else tell_confidence(caption),
            _state(region),
        )
    return drawn


def _state(region: CachedRegion) -> str:
    track = region.track
    return f"lost ({track.reason})" if isinstance(track, TrackLost) else "alive"
