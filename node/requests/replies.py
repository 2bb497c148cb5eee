"""Replies to the client of a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ureca.datatypes import JsonObject
from ureca.errors import RequestError
from ureca.protocol.events import (
    PROTOCOL_VERSION,
    AnyEvent,
    CaptionAbort,
    CaptionDelta,
    CaptionError,
    CaptionFinal,
)
from ureca.protocol.requests import Description, ErrorBody, Reply

_ABORT_CODES = {"deadline": "DEADLINE", "shutdown": "GONE"}

SendReply = Callable[[bytes, Reply], None]


@dataclass(frozen=True, slots=True)
class ReplyChannel:
    """The client of a request, and its reply channel."""

    client: bytes
    request_id: bytes
    answer: SendReply

    def reply(self, state: str, result: JsonObject | None = None) -> None:
        """Reply with data; `state` is `accepted`, `progress` or `result`."""
        reply = Reply(
            v=PROTOCOL_VERSION,
            id=self.request_id,
            status=state,  # type: ignore[arg-type]
            result=result or {},
        )
        self.answer(self.client, reply)

    def fail(self, error: Exception) -> None:
        """Reply with an error; unexpected errors have no details."""
        body = ErrorBody.of(error)
        if isinstance(error, RequestError):
            body = ErrorBody(code=error.code, msg=_bare(error), retry_after_ms=error.retry_after_ms)
        self.answer(
            self.client, Reply(v=PROTOCOL_VERSION, id=self.request_id, status="error", error=body)
        )


def relay(event: AnyEvent, channel: ReplyChannel) -> None:
    """Send a caption's events as replies to its client."""
    if isinstance(event, CaptionDelta):
        channel.reply("progress", {"offset": event.offset, "text": event.text})
    elif isinstance(event, CaptionFinal):
        channel.reply("result", plain(_description(event)))
    elif isinstance(event, CaptionError):
        channel.fail(RequestError(event.msg, code=event.code))
    elif isinstance(event, CaptionAbort):
        code = _ABORT_CODES.get(event.reason, "GONE")
        channel.fail(RequestError(f"the caption was aborted: {event.reason}", code=code))


def _description(event: CaptionFinal) -> Description:
    return Description(
        text=event.text,
        status=event.status,
        n_tok=event.n_tok,
        stop=event.stop,
        score=event.score,
        score_kind=event.score_kind,
        model=event.model,
        bundle_sha=event.bundle_sha,
        precision=event.precision,
        confidence=event.confidence,
        unsure=event.unsure,
        stream=event.stream,
        seq=event.src_seqs[-1],
        captured_ns=event.captured_ns,
        stage_us=event.stage_us,
        attributes=event.attributes or (),
    )


def _bare(error: RequestError) -> str:
    """The message without the code that `RequestError` puts before it."""
    return str(error).removeprefix(f"{error.code}: ")


def plain(struct: msgspec.Struct) -> JsonObject:
    """A result as plain data."""
    data: JsonObject = msgspec.to_builtins(struct, builtin_types=(bytes,))
    return data
