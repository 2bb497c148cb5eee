"""Answers to texts as results, events and regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from ureca.datatypes import Frame, Mask, RegionSeed, Rle
from ureca.errors import RegionError, RequestError, UrecaError
from ureca.node.captioning.grounding import GroundedText, GroundingCandidate, GroundingRequest
from ureca.node.masks.geometry import box_of
from ureca.node.pipeline.step import FindRequest
from ureca.node.pipeline.stream import Stream, StreamUpdate
from ureca.node.pipeline.text_questions import TextQuestion
from ureca.protocol.events import TextAbsent, TextFound, TextRegion
from ureca.protocol.region_codec import to_wire_rle
from ureca.protocol.requests import Where
from ureca.protocol.results import Found
from ureca.protocol.rle import decode, encode

BY_LIKELIHOOD = "likelihood"
_NOTHING_THERE = "NO_MODEL"
"""The code of a stream that has nothing to ask; other streams may answer all the same."""


def found_regions(one: GroundedText, request: GroundingRequest, *, masks: bool) -> list[Found]:
    """The answers of one text, best first; with their masks if wanted."""
    return [
        _found(
            request.candidates[region.index],
            request.frame,
            probability=region.probability,
            level=region.level,
            with_mask=masks,
        )
        for region in one.regions
    ]


def _found(
    candidate: GroundingCandidate, frame: Frame, *, with_mask: bool, **more: Any
) -> Found:  # probability and level
    given = candidate.mask
    mask: Mask = decode(given) if isinstance(given, Rle) else np.asarray(given, np.bool_)
    code = given if isinstance(given, Rle) else encode(mask) if with_mask else None
    return Found(
        stream=frame.stream,
        rid=candidate.rid,
        box=box_of(mask),
        mask=to_wire_rle(code) if code is not None and with_mask else None,
        seq=frame.seq,
        captured_ns=frame.captured_ns,
        **more,
    )


@dataclass(eq=False, slots=True)
class StreamSearch:
    """A `find` over one or more streams, until each has answered."""

    request: FindRequest
    open_questions: list[TextQuestion] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    nones: list[float] = field(default_factory=list)
    refusals: list[UrecaError] = field(default_factory=list)

    @classmethod
    def of(cls, request: FindRequest, streams: Sequence[str], where: Where) -> StreamSearch:
        """The search of `streams`; none is asked yet."""
        args = request.args
        questions = [
            TextQuestion(
                stream=name,
                text=args.text,
                where=args.where or where,
                level=args.level,
                starts=False,
                request=request,
                key=request.key,
            )
            for name in streams
        ]
        return cls(request, questions)

    def result(self) -> dict[str, Any] | UrecaError:
        """What the client gets in the end."""
        for error in self.refusals:
            if not isinstance(error, RequestError) or error.code != _NOTHING_THERE:
                return error
        if not self.nones:
            return self.refusals[0]
        best = sorted(self.found, key=lambda one: -(one.probability or 0.0))
        return {
            "by": BY_LIKELIHOOD,
            "regions": _plain(best[: self.request.args.limit]),
            "none": min(self.nones),
        }


@dataclass(frozen=True, slots=True)
class FollowedAnswer:
    """What became of the answer to one text: the regions that are followed, and why others are
    not.
    """

    regions: tuple[Found, ...]
    refusals: tuple[UrecaError, ...]


def follow_answer(
    question: TextQuestion,
    one: GroundedText,
    request: GroundingRequest,
    stream: Stream,
    *,
    take: Callable[[StreamUpdate], None],
    now_ns: int,
) -> FollowedAnswer:
    """Name the regions of the answer that are followed already, and start the others."""
    regions: list[Found] = []
    refusals: list[UrecaError] = []
    answers = found_regions(one, request, masks=False)
    for found, answer in zip(answers, one.regions, strict=True):
        candidate = request.candidates[answer.index]
        try:
            rid, update = _followed(question, candidate, stream, request.frame.seq, now_ns)
            take(update)
            if question.policy is not None:
                take(stream.set_policy(rid, question.policy, now_ns=now_ns))
        except UrecaError as error:
            refusals.append(error)
        else:
            regions.append(msgspec.structs.replace(found, rid=rid))
    return FollowedAnswer(tuple(regions), tuple(refusals))


def _followed(
    question: TextQuestion, candidate: GroundingCandidate, stream: Stream, seq: int, now_ns: int
) -> tuple[str, StreamUpdate]:
    label = (question.label or question.text)[:256]
    if candidate.rid is not None:
        if not stream.name(candidate.rid, label):
            raise RegionError(f"the region {candidate.rid} that was found has ended")
        return candidate.rid, StreamUpdate([], ())
    assert isinstance(candidate.mask, Rle)  # of a keyframe: all others have an id
    return stream.begin(seq, RegionSeed(mask=candidate.mask, label=label), now_ns=now_ns)


def text_event(
    text: str, none: float, frame: Frame, regions: Sequence[Found]
) -> TextFound | TextAbsent:
    """What subscribers hear of a text that was asked of `frame`."""
    common: dict[str, Any] = {
        "stream": frame.stream,
        "text": text,
        "none": none,
        "seq": frame.seq,
        "captured_ns": frame.captured_ns,
        "clk": frame.clock,
    }
    if not regions:
        return TextAbsent(**common)
    return TextFound(**common, regions=tuple(_text_region(one) for one in regions))


def _text_region(found: Found) -> TextRegion:
    assert found.rid is not None  # they are followed
    assert found.box is not None
    assert found.probability is not None
    return TextRegion(
        rid=found.rid, box=found.box, probability=found.probability, level=found.level
    )


def added(
    seq: int, none: float, regions: Sequence[Found], policy: dict[str, Any]
) -> dict[str, Any]:
    """The result of `region.add` with a text."""
    return {
        "rid": (regions[0].rid or "") if regions else "",
        "seq": seq,
        "policy": policy,
        "regions": _plain(regions),
        "none": none,
    }


def _plain(regions: Sequence[Found]) -> list[dict[str, Any]]:
    """As the wire and a recording give them back: lists, no tuples."""
    plain: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(list(regions)))
    return plain
