"""Results of operations; `Hello`, `Health` and `Description` are in `ureca.protocol.requests`.
`ureca.protocol.operations` has the result type of each operation.
"""

from __future__ import annotations

from msgspec import Struct

from ureca.datatypes import JsonObject
from ureca.protocol.events import WireRle


class TimeResult(Struct, frozen=True, kw_only=True):
    """The result of `time`: when the node received the request and sent this, on clock `clk`."""

    clk: str
    recv_ns: int
    send_ns: int


class SnapshotResult(Struct, frozen=True, kw_only=True):
    """The result of `snapshot`: events as plain data; `ureca.protocol.wire` reads them."""

    events: tuple[JsonObject, ...]


class Stats(Struct, frozen=True, kw_only=True):
    """The result of `stats`. `refused` are the latest captions that the output filter rejected."""

    uptime_ms: int
    counters: dict[str, int]
    streams: dict[str, JsonObject]
    refused: tuple[JsonObject, ...] = ()


class ConfigResult(Struct, frozen=True, kw_only=True):
    """The result of `config.get`: all settings, by section."""

    config: JsonObject


class Found(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer to a text, in the frame `seq` captured at `captured_ns`; `box` is in px (xyxy).

    By `likelihood`: `probability` 0..1 that the text is true of it, calibrated, and its `level`;
    `rid` is None for a thing that is not followed. By `caption_words`: `text` is its caption and
    `score` the share of the searched words in it.
    """

    stream: str
    rid: str | None = None
    text: str = ""
    score: float | None = None
    probability: float | None = None
    level: str | None = None
    box: tuple[int, int, int, int] | None = None
    mask: WireRle | None = None
    seq: int | None = None
    captured_ns: int | None = None


class FindResult(Struct, frozen=True, kw_only=True):
    """The result of `find`, best first; `by` names the measure: `likelihood` or `caption_words`.

    No region means: not there. `none` is the probability 0..1 of that, of several streams the
    lowest; None with `caption_words`, which cannot know.
    """

    by: str = ""
    regions: tuple[Found, ...]
    none: float | None = None


class PanopticResult(Struct, frozen=True, kw_only=True):
    """The result of `panoptic`: the newest event of the stream, as plain data."""

    event: JsonObject


class Followed(Struct, frozen=True, kw_only=True):
    """One region of `region.list`; `box` is (x0, y0, x1, y1) px."""

    rid: str
    state: str
    box: tuple[int, int, int, int]
    label: str | None = None
    parent: str | None = None
    age_frames: int = 0
    missed_frames: int = 0
    policy: JsonObject = {}


class RegionListResult(Struct, frozen=True, kw_only=True):
    """The result of `region.list`."""

    regions: tuple[Followed, ...]


class Added(Struct, frozen=True, kw_only=True):
    """The result of `region.add`: followed from frame `seq` on.

    For a text: `regions` are its answers, all of them followed, and `rid` the best one's; without
    an answer `rid` is empty and `none` the probability 0..1 that nothing is there. `standing`: the
    text was taken, its answers come as events.
    """

    rid: str = ""
    seq: int
    policy: JsonObject = {}
    regions: tuple[Found, ...] = ()
    none: float | None = None
    standing: bool = False


class RegionUpdateResult(Struct, frozen=True, kw_only=True):
    """The result of `region.update`: the frame on which the region was placed."""

    rid: str = ""
    seq: int


class RegionRemoveResult(Struct, frozen=True, kw_only=True):
    """The result of `region.remove`."""

    rid: str


class PolicyResult(Struct, frozen=True, kw_only=True):
    """The result of `policy.set`: the policy as it is in force now."""

    policy: JsonObject


class PromptResult(Struct, frozen=True, kw_only=True):
    """The result of `prompt.set`."""

    prompt_id: str


class CancelResult(Struct, frozen=True, kw_only=True):
    """The result of `cancel`: false when there is no such request (any more)."""

    cancelled: bool


class RunModeResult(Struct, frozen=True, kw_only=True):
    """The result of `pause`, `drain` and `resume`: the state, and how many requests are open."""

    state: str
    requests_in_flight: int


class RecordStartResult(Struct, frozen=True, kw_only=True):
    """The result of `record.start`: the file's path on the node's host."""

    file: str


class RecordStopResult(Struct, frozen=True, kw_only=True):
    """The result of `record.stop`: the file is whole; `lost` counts what is not in it, by kind."""

    file: str
    lost: dict[str, int]
    failure: str | None


class ShutdownResult(Struct, frozen=True, kw_only=True):
    """The result of `shutdown`."""

    state: str
