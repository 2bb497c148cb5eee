"""Requests and replies: client DEALER, node ROUTER.

A request is `[header]`, or `[header][picture]` for `describe` on a picture of the client's own; a
reply is `[header]`. Each request gets zero or more `accepted` and `progress` replies and exactly
one terminal, `result` or `error`. Deadlines are relative, because clocks differ. (ROUTER and DEALER
add and remove the client's identity; it is not shown here.) `ureca.protocol.request_codec` has
the bytes, `ureca.protocol.operations` the table of operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ureca.attributes import MAX_ATTRIBUTES, AttributeAnswer, check_attributes
from ureca.datatypes import MAX_TEXT_CHARS, AskedStyle, Level
from ureca.errors import BundleError, EngineError, RegionError, SourceError, UrecaError
from ureca.protocol.events import PROTOCOL_VERSION
from ureca.protocol.frames import Side
from ureca.protocol.region_codec import WireRegion

TERMINAL_STATES = frozenset({"result", "error"})

RequestId = Annotated[bytes, Meta(min_length=1, max_length=16)]
_CODES: Mapping[type[UrecaError], str] = {
    BundleError: "NO_MODEL",
    EngineError: "ENGINE",
    RegionError: "BAD_SCHEMA",
    SourceError: "BAD_SCHEMA",
}
_HEALTHY_STATES = frozenset({"running", "paused"})


class Request(Struct, frozen=True, kw_only=True):
    """A request. The client chooses `id`; `deadline_ms` counts from arrival at the node."""

    v: tuple[int, int] = PROTOCOL_VERSION
    id: RequestId
    op: str
    deadline_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = 5_000
    args: dict[str, Any] = {}


class ErrorBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A typed failure; `code` is one of `ERROR_CODES`, or `unknown` from a later minor version."""

    code: str
    msg: str
    retry_after_ms: int | None = None

    @classmethod
    def of(cls, error: Exception) -> ErrorBody:
        """The body for an error; an unexpected error becomes `INTERNAL` without details."""
        if not isinstance(error, UrecaError):
            return cls(code="INTERNAL", msg=type(error).__name__)
        named = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "INTERNAL")
        return cls(code=str(getattr(error, "code", named)), msg=str(error))


class Reply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer. `result` is the data of `progress` and `result`, `error` that of `error`."""

    v: tuple[int, int]
    id: RequestId
    status: Literal["accepted", "progress", "result", "error", "unknown"]
    result: dict[str, Any] = {}
    error: ErrorBody | None = None

    @property
    def terminal(self) -> bool:
        """Whether no further reply follows."""
        return self.status in TERMINAL_STATES


class PictureSpec(Struct, frozen=True, kw_only=True):
    """The format of the second part of a `describe` request."""

    enc: Literal["jpeg", "png", "rgb8"]
    w: Side
    h: Side


class DescribeArgs(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Arguments of `describe`: a region of the stream's newest frame, or of the picture sent along.

    Exactly one of `stream` and `picture`; exactly one of `rid` (a live region of the stream) and
    `region`. `attributes` are names of `ureca.attributes`.
    """

    stream: str | None = None
    picture: PictureSpec | None = None
    rid: str | None = None
    region: WireRegion | None = None
    style: AskedStyle = "short"
    max_new_tokens: Annotated[int, Meta(ge=1, le=1024)] | None = None
    attributes: Annotated[tuple[str, ...], Meta(max_length=MAX_ATTRIBUTES)] = ()

    def __post_init__(self) -> None:
        if self.attributes:
            check_attributes(self.attributes)
        if (self.stream is None) == (self.picture is None):
            raise ValueError("expected exactly one of 'stream' and 'picture'")
        if (self.rid is None) == (self.region is None):
            raise ValueError("expected exactly one of 'rid' and 'region'")
        if self.rid is not None and self.stream is None:
            raise ValueError("'rid' names a region of a 'stream'")


FindText = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"\w")]
Where = Literal["tracks", "frame"]
"""What a text may be true of: the regions that are followed, or all that a segmenter cuts out."""


class FindArgs(Struct, frozen=True, kw_only=True):
    """Arguments of `find`: what `text` is true of, on one stream or all.

    Without `where` it is `frame` at a node with a segmenter, else `tracks`. `masks` asks for the
    masks of the answers, `level` admits only parts, things or groups.
    """

    text: FindText
    stream: str | None = None
    limit: Annotated[int, Meta(ge=1, le=256)] = 16
    where: Where | None = None
    masks: bool = False
    level: Level | None = None


class PanopticArgs(Struct, frozen=True, kw_only=True):
    """Arguments of `panoptic`: the stream; without one, that of a node that has only one."""

    stream: str | None = None


class RecordArgs(Struct, frozen=True, kw_only=True):
    """Arguments of `record.start`: the file's name without its ending, never a path."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}$")]


class Description(Struct, frozen=True, kw_only=True):
    """The result of `describe`. `stage_us` is by stage; no score means `score_kind` `none`;
    `confidence` and `unsure` are as in `caption.final`. `attributes` are in the order of the
    request.
    """

    text: str
    status: str
    n_tok: int
    stop: str
    score: float | None
    score_kind: str
    model: str
    bundle_sha: str
    precision: str
    confidence: float | None = None
    unsure: bool = False
    stream: str | None = None
    seq: int | None = None
    captured_ns: int | None = None
    stage_us: dict[str, int] = {}
    attributes: tuple[AttributeAnswer, ...] = ()


class Hello(Struct, frozen=True, kw_only=True):
    """The result of `hello`: the node's name, version, operations and limits. `find_by` is the
    measure of `find`: `likelihood`, or `caption_words` where the bundle cannot score texts.
    `attributes` are those that the bundle answers.
    """

    node: str
    session_id: bytes
    versions: tuple[tuple[int, int], ...]
    ops: tuple[str, ...]
    streams: tuple[str, ...]
    clk: str
    model: str
    bundle_sha: str
    precision: str
    limits: dict[str, int] = {}
    find_by: str = "caption_words"
    attributes: tuple[str, ...] = ()


class Health(Struct, frozen=True, kw_only=True):
    """The result of `health`; `counters` are those of `docs/protocol.md`, conservation."""

    state: str
    uptime_ms: int
    reasons: tuple[str, ...] = ()
    counters: dict[str, int] = {}
    streams: dict[str, dict[str, Any]] = {}

    @property
    def is_healthy(self) -> bool:
        """The rule of `/healthz`, `ureca health` and `ureca_healthy`: the node runs or is paused,
        and names no reason.
        """
        return self.state in _HEALTHY_STATES and not self.reasons
