"""Events that the node publishes: one frozen struct per kind, a closed tagged union.

Field names are those of the protocol (`docs/protocol.md`):
`ev` is the tag. Every event carries the node's
`session_id` and a rising `event_seq` (a gap means a lost event: request a snapshot), its stream and
region. The publisher stamps `event_seq`, `session_id` and `pub_ns`; producers leave the
defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from ureca.attributes import AttributeAnswer

PROTOCOL_VERSION = (2, 0)


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="ev", omit_defaults=False):
    """Base of all events."""

    v: tuple[int, int] = PROTOCOL_VERSION
    session_id: bytes = b""
    event_seq: int = 0
    pub_ns: int = 0
    stream: str = ""


class RegionEvent(Event, frozen=True, kw_only=True):
    """Base of events about one region. `rev` counts captions; `parent` is the enclosing region."""

    rid: str
    rev: int = 0
    parent: str | None = None


class WireRle(msgspec.Struct, frozen=True):
    """COCO compressed RLE: size is (height, width)."""

    size: tuple[int, int]
    counts: str


class TrackEvent(RegionEvent, frozen=True, kw_only=True):
    """Base of track events: box in pixels of frame `seq`, captured at `captured_ns` on `clk`."""

    seq: int
    captured_ns: int
    clk: str = "mono"
    box: tuple[int, int, int, int]
    label: str | None = None


class TrackNew(TrackEvent, frozen=True, kw_only=True, tag="track.new"):
    """A new region is followed; the mask is attached once."""

    mask: WireRle | None = None


class TrackUpdate(TrackEvent, frozen=True, kw_only=True, tag="track.update"):
    """Where the region is now; rate-limited."""

    age_frames: int = 0


class TrackLost(TrackEvent, frozen=True, kw_only=True, tag="track.lost"):
    """The node is no longer sure where the region is; `reason` says why. The box is the last valid
    one.
    """

    reason: str


class TrackRecovered(TrackEvent, frozen=True, kw_only=True, tag="track.recovered"):
    """A lost region was found again under its own id."""


class TrackEnd(TrackEvent, frozen=True, kw_only=True, tag="track.end"):
    """The id will not be used again in this session."""

    reason: str


class CaptionStart(RegionEvent, frozen=True, kw_only=True, tag="caption.start"):
    """A caption is being written."""

    request_id: int
    trigger: str
    seq: int
    captured_ns: int


class CaptionDelta(RegionEvent, frozen=True, kw_only=True, tag="caption.delta"):
    """New text from character `offset` on. Deltas may be dropped; the final has the whole text."""

    request_id: int
    offset: int
    text: str


class CaptionTerminal(RegionEvent, frozen=True, kw_only=True):
    """Base of the four ways a caption request ends; each request gets exactly one."""

    request_id: int


class CaptionFinal(CaptionTerminal, frozen=True, kw_only=True, tag="caption.final"):
    """A whole caption. Act on it only while `now - captured_ns < ttl_ms`.

    `stage_us` holds durations in microseconds by stage.
    """

    text: str
    status: Literal["ok", "truncated", "unknown"]
    n_tok: int
    stop: str
    score: float | None
    score_kind: Literal["token_geomean", "none", "unknown"]
    confidence: float | None = None
    """Calibrated probability, 0..1, that the caption is right; None where the bundle has no weights
    for it.
    """
    unsure: bool = False
    """`confidence` is lower than the `min_confidence` of the region's policy."""
    src_seqs: tuple[int, ...]
    captured_ns: int
    clk: str = "mono"
    capture_source: str = "receive"
    box: tuple[int, int, int, int]
    mask: WireRle | None = None
    mask_seq: int = 0
    trigger: str
    prompt_id: str = "short"
    model: str
    bundle_sha: str
    precision: str
    ttl_ms: int
    age_at_pub_ms: float = 0.0
    stage_us: dict[str, int] = {}
    batch: dict[str, int] = {}
    drop: dict[str, int] = {}
    label: str | None = None
    attributes: tuple[AttributeAnswer, ...] | msgspec.UnsetType = msgspec.UNSET
    """Only where a `describe` asked for attributes."""


class CaptionSame(CaptionTerminal, frozen=True, kw_only=True, tag="caption.same"):
    """Caption `same_rev` is still valid: a check found no change, and no new text was generated."""

    same_rev: int
    captured_ns: int
    ttl_ms: int


class CaptionAbort(CaptionTerminal, frozen=True, kw_only=True, tag="caption.abort"):
    """Withdraws the text so far: the track ended, or the request was superseded or too late."""

    reason: str


class CaptionError(CaptionTerminal, frozen=True, kw_only=True, tag="caption.error"):
    """A typed failure. A failure is never published as caption text."""

    code: str
    msg: str


class TextRegion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer to a text: its region, and the probability 0..1 that the text is true of it."""

    rid: str
    box: tuple[int, int, int, int]
    probability: float
    level: str | None = None


class TextEvent(Event, frozen=True, kw_only=True):
    """Base of the answers to text prompts and standing texts, on frame `seq`. `none` is the
    probability 0..1 that the text is true of nothing there.
    """

    text: str
    none: float
    seq: int
    captured_ns: int
    clk: str = "mono"


class TextFound(TextEvent, frozen=True, kw_only=True, tag="text.found"):
    """The text is true of these regions, best first. They are followed, and named by it."""

    regions: tuple[TextRegion, ...]


class TextAbsent(TextEvent, frozen=True, kw_only=True, tag="text.absent"):
    """The text is true of no region of the frame. A standing text is asked again; of its answers at
    most one a second is told.
    """


class NamedSegment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One segment of `Panoptic`: its value `n` 1..255 in the id map, its region, its `kind`
    (`thing`, `stuff`), its share 0..1 of the frame, and its region's newest caption, if it has one.
    """

    n: int
    rid: str
    kind: str
    share: float
    score: float | None = None
    label: str | None = None
    caption: str | None = None


class Panoptic(Event, frozen=True, kw_only=True, tag="panoptic"):
    """Every pixel of frame `seq`, of `width` x `height`: `png` is an id map in 8-bit grey,
    stretched over the frame; 0 is the rest. `stage_us` holds durations of the segmenter in
    microseconds: `look` at the frame, choose `segments`.
    """

    seq: int
    captured_ns: int
    clk: str = "mono"
    width: int
    height: int
    segments: tuple[NamedSegment, ...]
    png: bytes
    stage_us: dict[str, int] = {}


class Heartbeat(Event, frozen=True, kw_only=True, tag="heartbeat"):
    """Sent every second: health and counters (see `docs/protocol.md`, conservation)."""

    uptime_ms: int
    state: Literal["starting", "running", "paused", "draining", "stopped", "unknown"]
    counters: dict[str, int]
    streams: dict[str, dict[str, Any]]
    model: str = ""
    bundle_sha: str = ""


class RecordingStopped(Event, frozen=True, kw_only=True, tag="recording.stopped"):
    """A recording failed and ended; the node goes on. `lost` counts the messages that it lacks."""

    reason: str
    lost: int


AnyEvent = (
    TrackNew
    | TrackUpdate
    | TrackLost
    | TrackRecovered
    | TrackEnd
    | CaptionStart
    | CaptionDelta
    | CaptionFinal
    | CaptionSame
    | CaptionAbort
    | CaptionError
    | TextFound
    | TextAbsent
    | Panoptic
    | Heartbeat
    | RecordingStopped
)
"""The closed union that `wire` decodes to."""

EventSink = Callable[[AnyEvent], None]
"""Receives the events of the node, or those of one request."""
