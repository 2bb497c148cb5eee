"""The events of the node, and which may be lost: one row per kind.

The topic part lets a subscriber choose (`delta` is separate from `caption`, so that a thin link
need not carry the text twice). The node never drops terminal events: every accepted request ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ureca.protocol.events import AnyEvent

Loss = Literal["never", "drop"]
"""The rule for a full queue: `drop` events are dropped and counted, `never` are not."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One row of the table."""

    kind: str
    topic_part: str
    loss: Loss


_ROWS = (
    StreamSpec("track.new", "track", "never"),
    StreamSpec("track.update", "track", "drop"),
    StreamSpec("track.lost", "track", "never"),
    StreamSpec("track.recovered", "track", "never"),
    StreamSpec("track.end", "track", "never"),
    StreamSpec("caption.start", "caption", "drop"),
    StreamSpec("caption.delta", "delta", "drop"),
    StreamSpec("caption.final", "caption", "never"),
    StreamSpec("caption.same", "caption", "never"),
    StreamSpec("caption.abort", "caption", "never"),
    StreamSpec("caption.error", "caption", "never"),
    StreamSpec("text.found", "text", "never"),
    StreamSpec("text.absent", "text", "never"),
    StreamSpec("panoptic", "panoptic", "drop"),
    StreamSpec("heartbeat", "heartbeat", "drop"),
    StreamSpec("recording.stopped", "recording", "never"),
)

STREAMS: Mapping[str, StreamSpec] = MappingProxyType({row.kind: row for row in _ROWS})
"""The table, by kind."""

FRAME_TOPIC_PART = "frame"
"""Cameras publish frames under this topic part."""

TOPIC_PARTS = frozenset({row.topic_part for row in _ROWS} | {FRAME_TOPIC_PART})
"""Every topic part that this version knows."""

TERMINALS = frozenset({"caption.final", "caption.same", "caption.abort", "caption.error"})
"""Kinds that end a caption request; each request gets exactly one."""


def event_kind(event: AnyEvent) -> str:
    """The wire name of an event, e.g. `caption.final`."""
    return str(type(event).__struct_config__.tag)


def spec_of(event: AnyEvent) -> StreamSpec:
    """The row of an event."""
    return STREAMS[event_kind(event)]
