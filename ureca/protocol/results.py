"""Results of operations; `Hello`, `Health` and `Description` are in `ureca.protocol.requests`.
`ureca.protocol.operations` has the result type of each operation.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

Plain = dict[str, Any]


class TimeResult(Struct, frozen=True, kw_only=True):
    """The result of `time`: when the node received the request and sent this, on clock `clk`."""

    clk: str
    recv_ns: int
    send_ns: int


class SnapshotResult(Struct, frozen=True, kw_only=True):
    """The result of `snapshot`: events as plain data; `ureca.protocol.wire` reads them."""

    events: tuple[Plain, ...]


class Stats(Struct, frozen=True, kw_only=True):
    """The result of `stats`. `refused` are the latest captions that the output filter rejected."""

    uptime_ms: int
    counters: dict[str, int]
    streams: dict[str, Plain]
    refused: tuple[Plain, ...] = ()


class ConfigResult(Struct, frozen=True, kw_only=True):
    """The result of `config.get`: all settings, by section."""

    config: Plain


class Found(Struct, frozen=True, kw_only=True):
    """One region of `find`; `score` is the share of the searched words in its caption."""

    stream: str
    rid: str
    text: str
    score: float


class FindResult(Struct, frozen=True, kw_only=True):
    """The result of `find`, best first; `by` names the measure."""

    by: str = ""
    regions: tuple[Found, ...]


class Followed(Struct, frozen=True, kw_only=True):
    """One region of `region.list`; `box` is (x0, y0, x1, y1) px."""

    rid: str
    state: str
    box: tuple[int, int, int, int]
    label: str | None = None
    parent: str | None = None
    age_frames: int = 0
    missed_frames: int = 0
    policy: Plain = {}


class RegionListResult(Struct, frozen=True, kw_only=True):
    """The result of `region.list`."""

    regions: tuple[Followed, ...]


class Added(Struct, frozen=True, kw_only=True):
    """The result of `region.add`: followed from frame `seq` on."""

    rid: str
    seq: int
    policy: Plain = {}


class RegionUpdateResult(Struct, frozen=True, kw_only=True):
    """The result of `region.update`: the frame on which the region was placed."""

    rid: str = ""
    seq: int


class RegionRemoveResult(Struct, frozen=True, kw_only=True):
    """The result of `region.remove`."""

    rid: str


class PolicyResult(Struct, frozen=True, kw_only=True):
    """The result of `policy.set`: the policy as it is in force now."""

    policy: Plain


class PromptResult(Struct, frozen=True, kw_only=True):
    """The result of `prompt.set`."""

    prompt_id: str


class CancelResult(Struct, frozen=True, kw_only=True):
    """The result of `cancel`: false when there is no such request (any more)."""

    cancelled: bool


class Halted(Struct, frozen=True, kw_only=True):
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
