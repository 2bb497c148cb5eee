"""Builds the events of one caption request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from ureca.attributes import AttributeAnswer
from ureca.datatypes import EngineInfo, Frame, Refusal, RegionRequest, RowDelta, RowDone
from ureca.node.scheduling.scheduler import Renewal
from ureca.protocol.events import (
    CaptionAbort,
    CaptionDelta,
    CaptionError,
    CaptionFinal,
    CaptionSame,
    CaptionStart,
)
from ureca.protocol.rle import encode
from ureca.protocol.wire import to_wire_rle

NO_REGION = "_"
"""Stands for a region that has no usable id."""


def start(request: RegionRequest, frame: Frame) -> CaptionStart:
    """A caption of `request` on `frame` begins."""
    return CaptionStart(
        **_ids(request), trigger=request.trigger.value, seq=frame.seq, captured_ns=frame.captured_ns
    )


def delta(request: RegionRequest, gained: RowDelta) -> CaptionDelta:
    """The caption gained text."""
    return CaptionDelta(**_ids(request), offset=gained.offset, text=gained.text)


def abort(request: RegionRequest, reason: str) -> CaptionAbort:
    """The request lost its point."""
    return CaptionAbort(**_ids(request), reason=reason)


def error(request: RegionRequest, code: str, msg: str) -> CaptionError:
    """The request failed."""
    return CaptionError(**_ids(request), code=code, msg=msg)


def same(renewal: Renewal, frame: Frame) -> CaptionSame:
    """A caption still holds as of `frame`."""
    return CaptionSame(
        stream=frame.stream,
        rid=renewal.rid,
        rev=renewal.rev,
        request_id=renewal.request_id,
        same_rev=renewal.same_rev,
        captured_ns=frame.captured_ns,
        ttl_ms=renewal.ttl_ms,
    )


def refused_region(refusal: Refusal, stream: str, request_id: int) -> CaptionError:
    """A region that a sender or a prompt named cannot be taken."""
    return CaptionError(
        stream=stream,
        rid=refusal.rid or NO_REGION,
        request_id=request_id,
        code="BAD_SCHEMA",
        msg=refusal.reason,
    )


def final(
    request: RegionRequest,
    frame: Frame,
    done: RowDone,
    *,
    info: EngineInfo,
    ttl_ms: int,
    min_confidence: float,
    durations_us: Mapping[str, int],
    batch: Mapping[str, int],
    attributes: tuple[AttributeAnswer, ...] = (),
) -> CaptionFinal:
    """The whole caption, with its origin and durations."""
    return CaptionFinal(
        **_ids(request),
        text=done.text.strip(),
        status="truncated" if done.stop == "length" else "ok",
        n_tok=done.n_tok,
        stop=done.stop,
        score=done.score,
        score_kind="token_geomean",
        confidence=done.confidence,
        unsure=done.confidence is not None and done.confidence < min_confidence,
        src_seqs=(frame.seq,),
        captured_ns=frame.captured_ns,
        clk=frame.clock,
        capture_source=frame.capture_source,
        box=request.box_xyxy_px,
        mask=to_wire_rle(encode(request.mask)),
        mask_seq=frame.seq,
        trigger=request.trigger.value,
        prompt_id="dense" if request.is_dense else request.style,
        model=info.model,
        bundle_sha=info.bundle_sha,
        precision=info.precision,
        ttl_ms=ttl_ms,
        stage_us=dict(durations_us),
        batch=dict(batch),
        label=request.label,
        attributes=attributes or UNSET,
    )


def _ids(request: RegionRequest) -> dict[str, Any]:
    """What every event of a request carries; `Any` because the fields are of different types."""
    return {
        "stream": request.stream,
        "rid": request.rid,
        "rev": request.rev,
        "request_id": request.request_id,
    }
