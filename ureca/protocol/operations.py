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
from ureca.protocol.preview_messages import Picture, PictureArgs
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
from ureca.protocol.requests import (
    DescribeArgs,
    Description,
    FindArgs,
    Health,
    Hello,
    PanopticArgs,
    RecordArgs,
)
from ureca.protocol.results import (
    Added,
    CancelResult,
    ConfigResult,
    FindResult,
    PanopticResult,
    PolicyResult,
    PromptResult,
    RecordStartResult,
    RecordStopResult,
    RegionListResult,
    RegionRemoveResult,
    RegionUpdateResult,
    RunModeResult,
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
        about="identifies the node. `ops` lists its operations",
    ),
    "time": Operation(
        args=NoArgs,
        result=TimeResult,
        role="observe",
        runs_on="sockets",
        about="compares clocks. If the client sends at *a* and gets the reply at *d*, the "
        "node's clock is ahead by ((`recv_ns` - *a*) + (`send_ns` - *d*)) / 2, with an "
        "error of at most half of (*d* - *a*) - (`send_ns` - `recv_ns`)",
    ),
    "snapshot": Operation(
        args=NoArgs,
        result=SnapshotResult,
        role="observe",
        runs_on="sockets",
        about="returns the last track event and the last caption of each live region",
    ),
    "describe": Operation(
        args=DescribeArgs,
        result=Description,
        role="request",
        runs_on="captioner",
        page_s=20,
        about="captions one region, and answers its `attributes`, see below. `progress` replies "
        "with `offset` `text` precede the result",
    ),
    "find": Operation(
        args=FindArgs,
        result=FindResult,
        role="request",
        runs_on="captioner",
        page_s=20,
        about="finds what a text is true of, see [below](#texts). `limit` is 1 to 256, 16 if "
        "absent. `regions`, best first: by `likelihood` {`stream` `seq` `captured_ns` `rid?` "
        "`probability` `level` `box` `mask?`}, "
        "by `caption_words` {`stream` `rid` `text` `score`}. No region means: not there, with the "
        "probability `none`",
    ),
    "panoptic": Operation(
        args=PanopticArgs,
        result=PanopticResult,
        role="observe",
        runs_on="sockets",
        page_s=5,
        about="returns the newest `panoptic` event of a stream, with the captions of now. "
        "`NOT_FOUND` before the first one; `NO_MODEL` where `panoptic.on` is not set",
    ),
    "stats": Operation(
        args=NoArgs,
        result=Stats,
        role="observe",
        runs_on="sockets",
        about="returns counters. `refused`: the latest captions that the output filter "
        "rejected, {`stream` `rid` `request_id` `seq` `fault` `text`}",
    ),
    "config.get": Operation(
        args=NoArgs,
        result=ConfigResult,
        role="admin",
        runs_on="sockets",
        about="returns all settings, by section",
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
        about="returns a preview for people: the next frame whose number is not `after`, "
        "reduced (`max_width_px` is 64 to 1,920). `width` `height` are the frame's, `w` "
        "`h` those of `jpeg`. `regions` have `rid` `state` `box` (px of the frame) "
        "`label` `mask` (of `w` x `h`; none while lost). `DEADLINE` if no new frame "
        "arrives, `BUSY` if 32 requests wait. Previews are encoded only on request, on "
        "their own thread",
    ),
    "cancel": Operation(
        args=CancelArgs,
        result=CancelResult,
        role="request",
        runs_on="step",
        about="cancels a `describe`, a `find` or a `region.add` with a text of the same client; "
        "`id` is its id. `cancelled` is false if none is in flight. What waits for an answer ends "
        "with `GONE`; a standing text is asked no more",
    ),
    "policy.set": Operation(
        args=PolicyArgs,
        result=PolicyResult,
        role="request",
        runs_on="step",
        page_s=5,
        about="changes the policy, see below. `policy` of the result is the policy in force",
    ),
    "prompt.set": Operation(
        args=PromptArgs,
        result=PromptResult,
        role="request",
        runs_on="step",
        page_s=5,
        about="sets the prompt: `short` or `long`. Captions in flight of these regions end with"
        " `caption.abort` `prompt_changed`, and the regions are captioned at once "
        "(`trigger` `request`)",
    ),
    "region.add": Operation(
        args=RegionAddArgs,
        result=Added,
        role="request",
        runs_on="step",
        page_s=20,
        about="adds a region, which is tracked from the newest frame, `seq`; or with `text` what "
        "it is true of, see [below](#texts)",
    ),
    "region.update": Operation(
        args=RegionUpdateArgs,
        result=RegionUpdateResult,
        role="request",
        runs_on="step",
        about="sets the position of the region on the newest frame; it keeps its id",
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
        about="lists regions: `rid` `state` `box` `label` `parent` `age_frames` `missed_frames`"
        " `policy`",
    ),
    "pause": Operation(
        args=PauseArgs,
        result=RunModeResult,
        role="admin",
        runs_on="step",
        page_s=5,
        about="`state` is `paused`. Captions start only for `describe`; regions are tracked, "
        "valid captions are renewed",
    ),
    "drain": Operation(
        args=DrainArgs,
        result=RunModeResult,
        role="admin",
        runs_on="step",
        about="`state` is `draining`. No caption starts and `describe` is `GONE`; accepted "
        "requests are finished. Repeat the request until `requests_in_flight` is 0",
    ),
    "resume": Operation(
        args=ResumeArgs,
        result=RunModeResult,
        role="admin",
        runs_on="step",
        page_s=5,
        about="ends `pause` and `drain`; `state` is `running`",
    ),
    "record.start": Operation(
        args=RecordArgs,
        result=RecordStartResult,
        role="admin",
        runs_on="sockets",
        page_s=10,
        about="starts a recording. `name` is [a-z0-9_-]{1,64}, `file` is `NAME.mcap` in the "
        "folder of `ureca run --record-dir`; `FORBIDDEN` without one, `BUSY` during a "
        "recording, `BAD_SCHEMA` for a name that exists",
    ),
    "record.stop": Operation(
        args=NoArgs,
        result=RecordStopResult,
        role="admin",
        runs_on="recorder",
        page_s=20,
        about="ends the recording; its file is complete. `lost` is {kind: count}",
    ),
    "shutdown": Operation(
        args=NoArgs,
        result=ShutdownResult,
        role="admin",
        runs_on="sockets",
        about="the node finishes accepted requests and exits with status 0",
    ),
}
"""By name; the reply to `hello` lists the ones that a node offers."""


def operation_of(op: str) -> Operation:
    """The entry of `OPERATIONS`; raises `WireError` for a name that is none."""
    if op not in OPERATIONS:
        raise WireError(f"expected an operation of {sorted(OPERATIONS)}, got {op[:40]!r}")
    return OPERATIONS[op]
