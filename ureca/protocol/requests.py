"""Requests and replies: client DEALER, node ROUTER.

A request is `[header]`, or `[header][picture]` for `describe` on a picture of the client's own; a
reply is `[header]`. Each request gets zero or more `accepted` and `progress` replies and exactly
one terminal, `result` or `error`. Deadlines are relative, because clocks differ. (ROUTER and DEALER
add and remove the client's identity; it is not shown here.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ureca.datatypes import Style
from ureca.errors import BundleError, EngineError, RegionError, SourceError, UrecaError, WireError
from ureca.protocol.events import PROTOCOL_VERSION
from ureca.protocol.frames import Side
from ureca.protocol.messagepack import (
    ERROR_CODES,
    LIMITS,
    WireLimits,
    check_parts,
    check_version,
    convert,
    or_unknown,
    pack,
    unpack,
)
from ureca.protocol.region_codec import WireRegion
from ureca.protocol.region_requests import ORDERS

OPS = frozenset(
    {
        "hello",
        "time",
        "snapshot",
        "describe",
        "find",
        "stats",
        "health",
        "picture",
        "config.get",
        "record.start",
        "record.stop",
        "shutdown",
    }
    | ORDERS.keys()
)
"""Operations of this version; the reply to `hello` lists the ones that a node offers."""

TERMINAL_STATES = frozenset({"result", "error"})

RequestId = Annotated[bytes, Meta(min_length=1, max_length=16)]
_CODES: Mapping[type[UrecaError], str] = {
    BundleError: "NO_MODEL",
    EngineError: "ENGINE",
    RegionError: "BAD_SCHEMA",
    SourceError: "BAD_SCHEMA",
}
_HEALTHY_STATES = frozenset({"running", "paused"})
_STATES = frozenset({"accepted", "progress", "result", "error"})


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
    st: Literal["accepted", "progress", "result", "error", "unknown"]
    result: dict[str, Any] = {}
    error: ErrorBody | None = None

    @property
    def terminal(self) -> bool:
        """Whether no further reply follows."""
        return self.st in TERMINAL_STATES


class PictureSpec(Struct, frozen=True, kw_only=True):
    """The format of the second part of a `describe` request."""

    enc: Literal["jpeg", "png", "rgb8"]
    w: Side
    h: Side


class DescribeArgs(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Arguments of `describe`: a region of the stream's newest frame, or of the picture sent along.

    Exactly one of `stream` and `picture`; exactly one of `rid` (a live region of the stream) and
    `region`.
    """

    stream: str | None = None
    picture: PictureSpec | None = None
    rid: str | None = None
    region: WireRegion | None = None
    style: Style = "short"
    max_new_tokens: Annotated[int, Meta(ge=1, le=1024)] | None = None

    def __post_init__(self) -> None:
        if (self.stream is None) == (self.picture is None):
            raise ValueError("expected exactly one of 'stream' and 'picture'")
        if (self.rid is None) == (self.region is None):
            raise ValueError("expected exactly one of 'rid' and 'region'")
        if self.rid is not None and self.stream is None:
            raise ValueError("'rid' names a region of a 'stream'")


class FindArgs(Struct, frozen=True, kw_only=True):
    """Arguments of `find`: regions whose captions contain words of `text`, on one stream or all."""

    text: Annotated[str, Meta(min_length=1, max_length=1024)]
    stream: str | None = None
    limit: Annotated[int, Meta(ge=1, le=256)] = 16


class RecordArgs(Struct, frozen=True, kw_only=True):
    """Arguments of `record.start`: the file's name without its ending, never a path."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}$")]


class Description(Struct, frozen=True, kw_only=True):
    """The result of `describe`. `t` holds microseconds; no score means `score_kind` `none`."""

    text: str
    status: str
    n_tok: int
    stop: str
    score: float | None
    score_kind: str
    model: str
    bundle_sha: str
    precision: str
    stream: str | None = None
    seq: int | None = None
    cap_ns: int | None = None
    t: dict[str, int] = {}


class Hello(Struct, frozen=True, kw_only=True):
    """The result of `hello`: the node's name, version, operations and limits."""

    node: str
    boot: bytes
    versions: tuple[tuple[int, int], ...]
    ops: tuple[str, ...]
    streams: tuple[str, ...]
    clk: str
    model: str
    bundle_sha: str
    precision: str
    limits: dict[str, int] = {}


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


def encode_request(
    request: Request, picture: bytes | None = None, limits: WireLimits = LIMITS
) -> list[bytes]:
    """The one or two parts of a request."""
    return [pack(request, limits), *([] if picture is None else [picture])]


def decode_request(
    parts: Sequence[bytes], limits: WireLimits = LIMITS
) -> tuple[Request, bytes | None]:
    """The request and its picture; raises `WireError` with the code to answer."""
    check_parts(parts, least=1, most=2, what="a request")
    data = unpack(parts[0], limits)
    check_version(data)
    request = convert(data, Request, "request")
    if request.op not in OPS:
        raise WireError(f"expected an operation of {sorted(OPS)}, got {request.op[:40]!r}")
    picture = parts[1] if len(parts) == 2 else None
    if picture is not None and len(picture) > limits.max_payload_bytes:
        raise WireError(
            f"expected a picture of at most {limits.max_payload_bytes} bytes, got {len(picture)}",
            code="TOO_LARGE",
        )
    return request, picture


def salvage_request_id(parts: Sequence[bytes]) -> bytes | None:
    """The id of an otherwise invalid request, so that its error reaches its sender."""
    try:
        found = unpack(parts[0]).get("id") if parts else None
    except WireError:
        return None
    return found if isinstance(found, bytes) and 1 <= len(found) <= 16 else None


def encode_reply(reply: Reply, limits: WireLimits = LIMITS) -> list[bytes]:
    """The one part of a reply.

    A result that cannot be sent becomes an error, so that every request gets a reply.
    """
    try:
        return [pack(reply, limits.for_replies)]
    except WireError as error:
        refusal = Reply(v=reply.v, id=reply.id, st="error", error=ErrorBody.of(error))
        return [pack(refusal, limits.for_replies)]


def decode_reply(parts: Sequence[bytes], limits: WireLimits = LIMITS) -> Reply:
    """Read a reply; raises `WireError`."""
    check_parts(parts, least=1, most=1, what="a reply")
    data = unpack(parts[0], limits.for_replies)
    check_version(data)
    or_unknown(data, {"st": _STATES})
    if isinstance(data.get("error"), dict):
        or_unknown(data["error"], {"code": ERROR_CODES})
    reply = convert(data, Reply, "reply")
    if (reply.error is None) == (reply.st == "error"):
        raise WireError(
            f"a reply has an 'error' exactly when its state is 'error', got {reply.st!r}"
        )
    return reply
