"""Events that the node publishes: one frozen struct per kind, a closed tagged union.

Field names are those of the protocol (`docs/protocol.md`):
`ev` is the tag. Every event carries the node's
`boot`, a per-boot rising `eseq` (a gap means a lost event: request a snapshot), its stream and
region. `eseq`, `boot` and `pub_ns` are stamped by the publisher, so producers leave the defaults.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

PROTOCOL_VERSION = (1, 0)


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="ev", omit_defaults=False):
    """Base of all events."""

    v: tuple[int, int] = PROTOCOL_VERSION
    boot: bytes = b""
    eseq: int = 0
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
    """Base of track events: box in pixels of frame `seq`, captured at `cap_ns` on `clk`."""

    seq: int
    cap_ns: int
    clk: str = "mono"
    box: tuple[int, int, int, int]
    label: str | None = None


class TrackNew(TrackEvent, frozen=True, kw_only=True, tag="trk.new"):
    """A new region is followed; the mask is attached once."""

    mask: WireRle | None = None


class TrackUpdate(TrackEvent, frozen=True, kw_only=True, tag="trk.update"):
    """Where the region is now; rate-limited."""

    age_frames: int = 0


class TrackLost(TrackEvent, frozen=True, kw_only=True, tag="trk.lost"):
    """The node is no longer sure where the region is; `reason` says why. The box is the last valid
    one.
    """

    reason: str


class TrackRecovered(TrackEvent, frozen=True, kw_only=True, tag="trk.recovered"):
    """A lost region was found again under its own id."""


class TrackEnd(TrackEvent, frozen=True, kw_only=True, tag="trk.end"):
    """The id will not be used again in this boot."""

    reason: str


class CaptionStart(RegionEvent, frozen=True, kw_only=True, tag="cap.start"):
    """A caption is being written."""

    request_id: int
    trigger: str
    seq: int
    cap_ns: int


class CaptionDelta(RegionEvent, frozen=True, kw_only=True, tag="cap.delta"):
    """New text from character `offset` on. Deltas may be dropped; the final has the whole text."""

    request_id: int
    offset: int
    text: str


class CaptionTerminal(RegionEvent, frozen=True, kw_only=True):
    """Base of the four ways a caption request ends; each request gets exactly one."""

    request_id: int


class CaptionFinal(CaptionTerminal, frozen=True, kw_only=True, tag="cap.final"):
    """A whole caption. Act on it only while `now - cap_ns_last < ttl_ms`.

    `t` holds durations in microseconds by stage.
    """

    text: str
    status: Literal["ok", "truncated", "filtered", "unknown"]
    n_tok: int
    stop: str
    score: float | None
    score_kind: Literal["token_geomean", "none", "unknown"]
    src_seqs: tuple[int, ...]
    cap_ns_first: int
    cap_ns_last: int
    clk: str = "mono"
    cap_src: str = "receive"
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
    t: dict[str, int] = {}
    batch: dict[str, int] = {}
    drop: dict[str, int] = {}
    label: str | None = None


class CaptionSame(CaptionTerminal, frozen=True, kw_only=True, tag="cap.same"):
    """Caption `same_rev` is still valid: a check found no change, and no new text was generated."""

    same_rev: int
    cap_ns_last: int
    ttl_ms: int


class CaptionAbort(CaptionTerminal, frozen=True, kw_only=True, tag="cap.abort"):
    """Withdraws the text so far: the track ended, or the request was superseded or too late."""

    reason: str


class CaptionError(CaptionTerminal, frozen=True, kw_only=True, tag="cap.error"):
    """A typed failure. A failure is never published as caption text."""

    code: str
    msg: str


class Heartbeat(Event, frozen=True, kw_only=True, tag="hb"):
    """Sent every second: health and counters (see `docs/protocol.md`, conservation)."""

    uptime_ms: int
    state: Literal["starting", "running", "paused", "draining", "stopped", "unknown"]
    counters: dict[str, int]
    streams: dict[str, dict[str, Any]]
    model: str = ""
    bundle_sha: str = ""


class Metrics(Event, frozen=True, kw_only=True, tag="met"):
    """A snapshot of rates and latencies."""

    values: dict[str, float]


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
    | Heartbeat
    | Metrics
)
"""The closed union that `wire` decodes to."""
