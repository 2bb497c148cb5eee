"""Every operation of a request, in one table: arguments, result, least role, and where it is done.

`OPERATIONS` is read by the node's request handler and roles, by both clients, by the viewer and by
`docs/protocol.md`. A new operation is an entry here and its function in the node:
`ureca.node.requests.queries` or `.handler`, or `ureca.node.pipeline.region_commands` for one that
runs on the step thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct
from msgspec.structs import fields

from ureca.errors import WireError
from ureca.protocol.preview import Picture, PictureArgs
from ureca.protocol.region_requests import (
    CancelArgs,
    DrainArgs,
    PauseArgs,
    PolicyArgs,
    PromptArgs,
    RegionAddArgs,
    RegionListArgs,
    RegionRemoveArgs,
    RegionUpdateArgs,
    ResumeArgs,
)
from ureca.protocol.requests import DescribeArgs, Description, FindArgs, Health, Hello, RecordArgs
from ureca.protocol.results import (
    Added,
    CancelResult,
    ConfigResult,
    FindResult,
    Halted,
    PolicyResult,
    PromptResult,
    RecordStartResult,
    RecordStopResult,
    RegionListResult,
    RegionRemoveResult,
    RegionUpdateResult,
    ShutdownResult,
    SnapshotResult,
    Stats,
    TimeResult,
)

LeastRole = Literal["observe", "request", "admin"]
RunsOn = Literal["sockets", "step", "captioner", "preview", "recorder"]


class NoArgs(Struct, frozen=True, kw_only=True):
    """Arguments of an operation that has none."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `role` is the least role that may call it; `runs_on` is the thread that makes
    the result: with `step`, between two frames. Pages of the viewer may call it if `page_s` is set,
    and wait so many seconds for the result.
    """

    args: type[Struct]
    result: type[Struct]
    role: LeastRole
    runs_on: RunsOn
    about: str
    """What `docs/protocol.md` says of it (Markdown)."""
    page_s: float | None = None

    @property
    def arg_names(self) -> dict[str, bool]:
        """The names of the arguments, and whether each is required."""
        return {field.encode_name: field.required for field in fields(self.args)}


OPERATIONS: Mapping[str, Operation] = {
    "hello": Operation(
        args=NoArgs,
        result=Hello,
        role="observe",
        runs_on="sockets",
        about="who answers. `ops` lists what this node offers",
    ),
    "time": Operation(
        args=NoArgs,
        result=TimeResult,
        role="observe",
        runs_on="sockets",
        about="with the client's stamps of asking *a* and being answered *d*, the node's clock is "
        "ahead by ((`recv_ns` - *a*) + (`send_ns` - *d*)) / 2, off by at most half of "
        "(*d* - *a*) - (`send_ns` - `recv_ns`)",
    ),
    "snapshot": Operation(
        args=NoArgs,
        result=SnapshotResult,
        role="observe",
        runs_on="sockets",
        about="per live region its last track event and its last caption",
    ),
    "describe": Operation(
        args=DescribeArgs,
        result=Description,
        role="request",
        runs_on="captioner",
        page_s=20,
        about="below. Before the result come `progress` replies with `offset` `text`",
    ),
    "find": Operation(
        args=FindArgs,
        result=FindResult,
        role="request",
        runs_on="sockets",
        about="`limit` is 1 to 256, 16 if absent. `regions`: {`stream` `rid` `text` `score`}, best "
        "first. `by` is `caption_words`: `score` is the share of the words of `text` that stand in "
        "the region's caption; nothing is understood, and what is not captioned is not found",
    ),
    "stats": Operation(
        args=NoArgs,
        result=Stats,
        role="observe",
        runs_on="sockets",
        about="`refused`: the latest captions that the output gate kept back, {`stream` `rid` "
        "`request_id` `seq` `fault` `text`}",
    ),
    "config.get": Operation(
        args=NoArgs,
        result=ConfigResult,
        role="admin",
        runs_on="sockets",
        about="all settings, by section",
    ),
    "health": Operation(
        args=NoArgs,
        result=Health,
        role="observe",
        runs_on="sockets",
        about="`state` is also `degraded`. The node is healthy when `state` is `running` or "
        "`paused` and `reasons` is empty (`Health.is_healthy`); it is not healthy in any other "
        "case",
    ),
    "picture": Operation(
        args=PictureArgs,
        result=Picture,
        role="observe",
        runs_on="preview",
        about="for people: the next frame whose number is not `after`, small (`max_width_px` is 64 "
        "to 1,920). `width` `height` are the frame's, `w` `h` those of `jpeg`. `regions` have "
        "`rid` `state` `box` (px of the frame) `label` `mask` (of `w` x `h`; none while lost). "
        "`DEADLINE` when no new frame came, `BUSY` when 32 wait. Encoded only when asked for, off "
        "the threads that follow and caption",
    ),
    "cancel": Operation(
        args=CancelArgs,
        result=CancelResult,
        role="request",
        runs_on="step",
        about="`id` is that of a `describe` of the same client. `cancelled` is false when there is "
        "none (any more). The `describe` itself ends with `GONE`",
    ),
    "policy.set": Operation(
        args=PolicyArgs,
        result=PolicyResult,
        role="request",
        runs_on="step",
        page_s=5,
        about="`policy` of the result is the one in force now",
    ),
    "prompt.set": Operation(
        args=PromptArgs,
        result=PromptResult,
        role="request",
        runs_on="step",
        page_s=5,
        about="`prompt` is `short` or `long`. What is being written of these regions ends with "
        "`caption.abort` `prompt_changed`, and they are captioned at once (`trigger` `request`)",
    ),
    "region.add": Operation(
        args=RegionAddArgs,
        result=Added,
        role="request",
        runs_on="step",
        page_s=5,
        about="followed from the newest frame, `seq`, on",
    ),
    "region.update": Operation(
        args=RegionUpdateArgs,
        result=RegionUpdateResult,
        role="request",
        runs_on="step",
        about="where the region is on the newest frame; it keeps its id",
    ),
    "region.remove": Operation(
        args=RegionRemoveArgs,
        result=RegionRemoveResult,
        role="request",
        runs_on="step",
        page_s=5,
        about="ends the region: `track.end` with the reason `removed`",
    ),
    "region.list": Operation(
        args=RegionListArgs,
        result=RegionListResult,
        role="observe",
        runs_on="step",
        about="`regions` have `rid` `state` `box` `label` `parent` `age_frames` `missed_frames` "
        "`policy`",
    ),
    "pause": Operation(
        args=PauseArgs,
        result=Halted,
        role="admin",
        runs_on="step",
        page_s=5,
        about="`state` is `paused`. No caption is started but for a `describe`; regions are "
        "followed, captions that hold are renewed",
    ),
    "drain": Operation(
        args=DrainArgs,
        result=Halted,
        role="admin",
        runs_on="step",
        about="`state` is `draining`. No caption is started at all and `describe` is `GONE`; what "
        "was accepted is finished: ask again until `requests_in_flight` is 0",
    ),
    "resume": Operation(
        args=ResumeArgs,
        result=Halted,
        role="admin",
        runs_on="step",
        page_s=5,
        about="`state` is `running`: the end of `pause` and `drain`",
    ),
    "record.start": Operation(
        args=RecordArgs,
        result=RecordStartResult,
        role="admin",
        runs_on="sockets",
        page_s=10,
        about="`name` is [a-z0-9_-]{1,64}, `file` is `NAME.mcap` in the folder of `ureca run "
        "--record-dir`; `FORBIDDEN` without one, `BUSY` while a recording is under way, "
        "`BAD_SCHEMA` for a name that is taken",
    ),
    "record.stop": Operation(
        args=NoArgs,
        result=RecordStopResult,
        role="admin",
        runs_on="recorder",
        page_s=20,
        about="the file is whole. `lost` is {kind: count}",
    ),
    "shutdown": Operation(
        args=NoArgs,
        result=ShutdownResult,
        role="admin",
        runs_on="sockets",
        about="the node finishes what it accepted and exits 0",
    ),
}
"""By name; the reply to `hello` lists the ones that a node offers."""


def operation_of(op: str) -> Operation:
    """The entry of `OPERATIONS`; raises `WireError` for a name that is none."""
    if op not in OPERATIONS:
        raise WireError(f"expected an operation of {sorted(OPERATIONS)}, got {op[:40]!r}")
    return OPERATIONS[op]
