"""Recorded steps: the external inputs, and the decisions to compare.

The picture of a step is a message of its own. What a replay decides again (tracks, events) is not
part of a step.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import msgspec

from ureca.datatypes import Frame, Image, JsonObject
from ureca.errors import RequestError, SourceError, UrecaError
from ureca.node.captioning.batch import CaptionBatch, FinishedCaption
from ureca.node.captioning.grounding import FinishedGrounding, GroundingRequest
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.pipeline.step import (
    DescribeRequest,
    FindRequest,
    RegionCommand,
    StepInput,
    StepOutput,
    StepReply,
    StepRequest,
)
from ureca.node.recording.lossless_images import to_png
from ureca.node.segmentation.keyframe_segmenter import KeyframeResult
from ureca.protocol.events import EventSink
from ureca.protocol.operations import OPERATIONS

_DESCRIBE, _FIND = "describe", "find"


class RecordedRequest(msgspec.Struct, frozen=True):
    """One request of a batch that was decided on."""

    request_id: int
    stream: str
    rid: str
    rev: int
    trigger: str
    seq: int


class RecordedGrounding(msgspec.Struct, frozen=True):
    """A grounding that was decided on: the texts, and the regions that they are asked of."""

    request_id: int
    stream: str
    seq: int
    texts: tuple[str, ...]
    candidates: tuple[str | None, ...]


class RecordedStep(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One step: its input, then what it decided."""

    number: int
    now_ns: int
    frame: JsonObject | None = None
    requests: list[JsonObject] = []
    finished_captions: list[FinishedCaption] = []
    finished_keyframes: list[KeyframeResult] = []
    finished_groundings: list[FinishedGrounding] = []
    captioner_room: int = 0
    can_ground: bool = False
    closing: str = ""
    batch: list[RecordedRequest] = []
    grounding: RecordedGrounding | None = None
    answers: list[JsonObject] = []
    """What region commands and texts of clients led to, in their order."""


def recorded_step(number: int, given: StepInput, output: StepOutput) -> RecordedStep:
    """The step as JSON can hold it."""
    return RecordedStep(
        number=number,
        now_ns=given.now_ns,
        frame=None if given.frame is None else _fields(given.frame, "image"),
        requests=[_recorded_request(request) for request in given.requests],
        finished_captions=list(given.finished_captions),
        finished_keyframes=list(given.finished_keyframes),
        finished_groundings=list(given.finished_groundings),
        captioner_room=given.captioner_room,
        can_ground=given.can_ground,
        closing=given.closing,
        batch=recorded_batch(output.batch),
        grounding=recorded_grounding(output.grounding),
        answers=answers(output.replies),
    )


def recorded_batch(batch: CaptionBatch | None) -> list[RecordedRequest]:
    """What a batch was decided to be."""
    return [
        RecordedRequest(r.request_id, r.stream, r.rid, r.rev, r.trigger.value, r.frame_seq)
        for r in (batch.requests if batch is not None else ())
    ]


def recorded_grounding(request: GroundingRequest | None) -> RecordedGrounding | None:
    """What a grounding was decided to be."""
    if request is None:
        return None
    rids = tuple(candidate.rid for candidate in request.candidates)
    frame = request.frame
    return RecordedGrounding(request.request_id, frame.stream, frame.seq, request.texts, rids)


def answers(replies: list[StepReply]) -> list[JsonObject]:
    """What region commands and texts of clients led to, as plain data."""
    commands = (reply for reply in replies if not isinstance(reply.request, DescribeRequest))
    return [
        _failure(reply.result) if isinstance(reply.result, UrecaError) else reply.result
        for reply in commands
    ]


def step_input(
    step: RecordedStep, image: Image | None, send: EventSink, *, max_px: int
) -> StepInput:
    """The input of a recorded step; `send` gets the events of direct requests. Raises
    `SourceError` for data that is none.
    """
    frame = None
    if step.frame is not None and image is not None:
        frame = _built(Frame, step.frame, image=image)
    return StepInput(
        now_ns=step.now_ns,
        frame=frame,
        requests=tuple(_request(plain, send, max_px) for plain in step.requests),
        finished_captions=tuple(step.finished_captions),
        finished_keyframes=tuple(step.finished_keyframes),
        finished_groundings=tuple(step.finished_groundings),
        captioner_room=step.captioner_room,
        can_ground=step.can_ground,
        closing=step.closing,
    )


# --- one request ---------------------------------------------------------------------------------


def _recorded_request(request: StepRequest) -> JsonObject:
    """A request without its way back; a picture of the client's own as PNG."""
    if isinstance(request, FindRequest):
        plain = _fields(request, "reply", "fail", "args")
        return {**plain, "op": _FIND, "args": msgspec.to_builtins(request.args)}
    if isinstance(request, RegionCommand):
        op = next(name for name, op in OPERATIONS.items() if isinstance(request.args, op.args))
        plain = _fields(request, "reply", "fail", "args")
        return {**plain, "op": op, "args": msgspec.to_builtins(request.args)}
    plain = {**_fields(request, "send", "fail", "frame"), "op": _DESCRIBE}
    if request.frame is not None:
        plain["frame"] = _fields(request.frame, "image")
        plain["png"] = to_png(request.frame.image)
    return plain


def _request(plain: JsonObject, send: EventSink, max_px: int) -> StepRequest:
    given = dict(plain)
    op = given.pop("op", None)
    if op == _DESCRIBE:
        frame, png = given.pop("frame", None), given.pop("png", None)
        if frame is not None:
            image = decode_picture(msgspec.convert(png, bytes), max_px=max_px)
            frame = _built(Frame, frame, image=image)
        return _built(DescribeRequest, given, frame=frame, send=send, fail=_ignore)
    try:
        args = msgspec.convert(given.pop("args"), OPERATIONS[op].args)
    except (KeyError, msgspec.ValidationError) as error:
        raise SourceError(f"not a recorded request: {error}") from error
    if op == _FIND:
        return _built(FindRequest, given, args=args, reply=_ignore, fail=_ignore)
    return _built(RegionCommand, given, args=args, reply=_ignore, fail=_ignore)


def _ignore(_: object) -> None:
    """A replay compares `StepOutput.replies`; nobody waits for them."""


def _failure(error: UrecaError) -> JsonObject:
    code = error.code if isinstance(error, RequestError) else type(error).__name__
    return {"code": code, "msg": str(error)}


def _fields(data: Any, *without: str) -> JsonObject:  # a dataclass of any kind
    fields = {name: getattr(data, name) for name in data.__dataclass_fields__}
    plain = {name: value for name, value in fields.items() if name not in without}
    return dict(msgspec.to_builtins(plain))


_Built = typing.TypeVar("_Built")


def _built(kind: Callable[..., _Built], plain: JsonObject, **more: Any) -> _Built:
    """A dataclass from what `_fields` made of it; unknown fields of older recordings are left
    out.
    """
    hints = typing.get_type_hints(kind)
    try:
        known = {
            name: msgspec.convert(value, hints[name])
            for name, value in plain.items()
            if name in hints and name not in more
        }
        return kind(**known, **more)
    except (msgspec.ValidationError, TypeError) as error:
        name = getattr(kind, "__name__", "object")
        raise SourceError(f"not a recorded {name}: {error}") from error
