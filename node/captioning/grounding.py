"""Text grounding on the captioner's thread: which candidates of a frame is a text true of?

It needs the engine, so it is work like a batch of captions, and one of both is done at a time.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass

import msgspec

from ureca.clock import Clock
from ureca.datatypes import Frame, Level, Mask, Rle
from ureca.engine import Engine
from ureca.log import RateLimitedLog
from ureca.models.runtime.grounding import Candidate, Grounder, GroundingResult
from ureca.native_threads import ends_the_process
from ureca.protocol.rle import decode

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GroundingCandidate:
    """A region that a text may be true of: `mask` bool [H, W] of the frame's size, or its code.

    `score` 0..1 is that of the mask, 1 where a sender or a client gave it. `rid` is None for a
    thing that is not followed.
    """

    mask: Mask | Rle
    rid: str | None = None
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class GroundingRequest:
    """Texts to ask of one frame; `level` admits only parts, things or groups."""

    request_id: int
    frame: Frame
    candidates: tuple[GroundingCandidate, ...]
    texts: tuple[str, ...]
    level: Level | None
    deadline_ns: int


class GroundedRegion(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer: the candidate's index, and the probability 0..1 that the text is true of it."""

    index: int
    probability: float
    level: Level | None = None


class GroundedText(msgspec.Struct, frozen=True):
    """The answers to one text, best first; none means not there, with the probability `none`."""

    text: str
    none: float
    regions: tuple[GroundedRegion, ...]

    def at_least(self, probability: float) -> GroundedText:
        """Only the answers that are as sure as this."""
        sure = tuple(one for one in self.regions if one.probability >= probability)
        return msgspec.structs.replace(self, regions=sure)


class FinishedGrounding(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a `GroundingRequest` ended; `failure` says why there are no answers."""

    request_id: int
    texts: tuple[GroundedText, ...] = ()
    failure: str | None = None


class TextGrounder:
    """Answers requests with an engine that it shares with the captions of the same thread."""

    def __init__(self, engine: Engine, grounder: Grounder, clock: Clock) -> None:
        self._engine, self._grounder, self._clock = engine, grounder, clock
        self._finished: deque[FinishedGrounding] = deque()
        self._log = RateLimitedLog(_log, clock)

    def ground(self, request: GroundingRequest) -> None:
        """Answer `request`. Never raises: a failing engine is told in `FinishedGrounding`."""
        try:
            texts = self._answers(request)
        except BaseException as error:  # (an engine may fail in any way, `SystemExit` among them)
            if ends_the_process(error):
                raise
            text = f"the engine failed on {len(request.texts)} texts"
            self._log.warning(type(error).__name__, text, error=error)
            failure = f"{type(error).__name__}: {error!s:.200}"
            self._finished.append(FinishedGrounding(request.request_id, failure=failure))
        else:
            self._finished.append(FinishedGrounding(request.request_id, texts))

    def finished(self) -> tuple[FinishedGrounding, ...]:
        """The requests that ended since the last call; any thread may call it."""
        return tuple(self._finished.popleft() for _ in range(len(self._finished)))

    def _answers(self, request: GroundingRequest) -> tuple[GroundedText, ...]:
        if self._clock.now_ns() > request.deadline_ns:
            raise TimeoutError("the captioner came to these texts after their deadline")
        candidates = [_candidate(one) for one in request.candidates]
        encoded = self._engine.encode(request.frame.image)
        found = self._grounder.find(encoded, candidates, request.texts, level=request.level)
        return tuple(map(_grounded, found))


def _candidate(candidate: GroundingCandidate) -> Candidate:
    mask = decode(candidate.mask) if isinstance(candidate.mask, Rle) else candidate.mask
    return Candidate(mask, score=candidate.score, key=candidate.rid or "")


def _grounded(result: GroundingResult) -> GroundedText:
    """The result as a recording and the wire can hold it. Raises `ValueError` for no number."""
    probabilities = [result.none_probability, *(one.probability for one in result.regions)]
    if not all(map(math.isfinite, probabilities)):
        raise ValueError(f"the probabilities of {result.text[:40]!r} are not finite")
    regions = tuple(
        GroundedRegion(one.index, round(float(one.probability), 4), one.level)
        for one in result.regions
    )
    return GroundedText(result.text, round(float(result.none_probability), 4), regions)
