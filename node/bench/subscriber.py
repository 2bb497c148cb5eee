"""The robot of the bench: a subscriber in a separate process.

    python -m ureca.node.bench.subscriber EVENTS REQUESTS FILE

Stamps each event when its decoded form is in the subscriber's hands, and keeps what the figures
need. Ends when its stdin is closed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ureca.client.client import Client
from ureca.native_threads import NativeThread
from ureca.protocol.event_table import TERMINALS, event_kind
from ureca.protocol.events import (
    AnyEvent,
    CaptionDelta,
    CaptionFinal,
    CaptionSame,
    CaptionStart,
    Heartbeat,
    Panoptic,
    RegionEvent,
    TrackEvent,
)

_POLL_S = 0.2
_KINDS = frozenset(
    {
        "track.new",
        "track.lost",
        "track.recovered",
        "track.end",
        "caption.start",
        "caption.delta",
        "heartbeat",
        "panoptic",
    }
    | TERMINALS
)


class ReceivedEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event as it was received at `at_ns` of the host's monotonic clock."""

    kind: str
    at_ns: int
    rid: str = ""
    request_id: int = 0
    trigger: str = ""
    captured_ns: int = 0
    ttl_ms: int = 0
    stage_us: dict[str, int] = {}
    counters: dict[str, int] = {}
    segments: int = 0


class Keeper:
    """Events to samples; of the deltas of a caption only the first."""

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def sample(self, event: AnyEvent, at_ns: int) -> ReceivedEvent | None:
        """What is kept of an event, if anything."""
        kind = event_kind(event)
        if isinstance(event, Heartbeat):
            return ReceivedEvent(kind=kind, at_ns=at_ns, counters=event.counters)
        if isinstance(event, Panoptic):
            return ReceivedEvent(
                kind=kind,
                at_ns=at_ns,
                captured_ns=event.captured_ns,
                stage_us=event.stage_us,
                segments=len(event.segments),
            )
        if not isinstance(event, RegionEvent):
            return None
        request_id = int(getattr(event, "request_id", 0))
        if isinstance(event, CaptionDelta):
            if request_id in self._begun:
                return None
            self._begun.add(request_id)
        elif kind in TERMINALS:
            self._begun.discard(request_id)
        seen = ReceivedEvent(kind=kind, at_ns=at_ns, rid=event.rid, request_id=request_id)
        return msgspec.structs.replace(seen, **_more(event))


def _more(event: RegionEvent) -> dict[str, Any]:
    """What only some kinds carry; `Any` because the fields are of different types."""
    if isinstance(event, CaptionFinal):
        return {
            "trigger": event.trigger,
            "captured_ns": event.captured_ns,
            "ttl_ms": event.ttl_ms,
            "stage_us": event.stage_us,
        }
    if isinstance(event, CaptionSame):
        return {"captured_ns": event.captured_ns, "ttl_ms": event.ttl_ms}
    if isinstance(event, CaptionStart):
        return {"trigger": event.trigger, "captured_ns": event.captured_ns}
    return {"captured_ns": event.captured_ns} if isinstance(event, TrackEvent) else {}


def main() -> int:
    """Receive events until stdin is closed; the last line is the number of missed events."""
    events, requests, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    ended = threading.Event()
    NativeThread(target=partial(_until_closed, ended), name="ureca-until-closed").start()
    with Client.connect(events, requests) as client, path.open("wb") as file:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        keeper = Keeper()
        while not ended.is_set():
            for event in client.events(_KINDS, timeout_s=_POLL_S):
                sample = keeper.sample(event, time.monotonic_ns())
                if sample is not None:
                    file.write(msgspec.json.encode(sample) + b"\n")
                if ended.is_set():
                    break
        file.write(msgspec.json.encode({"missed": client.missed}) + b"\n")
    return 0


def _until_closed(ended: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):  # no lock of a buffer, which would abort the end
        pass
    ended.set()


if __name__ == "__main__":
    sys.exit(main())
