"""Texts to regions in the pipeline: what is asked next, and what the answers lead to.

One grounding is at the captioner at a time. It takes all due texts of one stream that are asked of
the same masks, those first that have waited longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ureca.datatypes import Refusal, TextPrompt
from ureca.errors import RequestError, UrecaError
from ureca.node.captioning.grounding import FinishedGrounding, GroundedText, GroundingRequest
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.pipeline.step import FindRequest, RegionCommand, RequestKey, StepRequest
from ureca.node.pipeline.stream import Stream, StreamUpdate
from ureca.node.pipeline.text_answers import (
    StreamSearch,
    added,
    follow_answer,
    found_regions,
    text_event,
)
from ureca.node.pipeline.text_questions import TextQuestion, question_of
from ureca.node.pipeline.text_queue import TextQueue
from ureca.node.scheduling.caption_policy import plain_policy
from ureca.node.segmentation.keyframe_segmenter import KeyframeResult
from ureca.protocol.region_requests import RegionAddArgs

_PROMPT_NS = 30_000_000_000
"""A prompt's text that was not asked for so long is refused: a segmenter may take seconds."""
_LATE = RequestError("no answer before the deadline", code="DEADLINE")
_CANCELLED = RequestError("cancelled", code="GONE")

Reply = Callable[[StepRequest, dict[str, Any] | UrecaError], None]
Refuse = Callable[[Stream, Sequence[Refusal], int], None]


@dataclass(frozen=True, slots=True)
class _Flight:
    """A grounding at the captioner; its questions are asked of the same masks."""

    request: GroundingRequest
    questions: tuple[TextQuestion, ...]


class TextSearch:
    """The texts of all streams. `take`, `reply` and `refuse` get what a step leads to."""

    def __init__(
        self,
        config: NodeConfig,
        streams: Mapping[str, Stream],
        counters: NodeCounters,
        ids: Iterator[int],
        *,
        take: Callable[[StreamUpdate], None],
        reply: Reply,
        refuse: Refuse,
    ) -> None:
        self._limit_ns = int(config.scheduler.deadline_s * 1e9)
        self._min_standing = config.grounding.min_standing
        self._streams = streams
        self._counters = counters
        self._ids = ids
        self._take, self._reply, self._refuse = take, reply, refuse
        self.queue = TextQueue(config, streams)
        self._searches: list[StreamSearch] = []
        self._flight: _Flight | None = None

    # --- questions -------------------------------------------------------------------------------

    def find(self, request: FindRequest) -> None:
        """Take a `find`; it is answered in this step or a later one."""
        names = [request.args.stream] if request.args.stream else list(self._streams)
        if not names:
            self._reply(request, RequestError("there is no stream yet", code="NO_STREAM"))
            return
        search = StreamSearch.of(request, names, self.queue.where)
        self._searches.append(search)
        for question in tuple(search.open_questions):
            self._ask_or_fail(question)

    def _ask_or_fail(self, question: TextQuestion) -> None:
        try:
            self.queue.ask(question)
        except UrecaError as error:
            self._fail(question, error)

    def add(self, command: RegionCommand) -> dict[str, Any] | None:
        """Take the text of a `region.add`; the result for a standing one, None when it is answered
        later. Raises `RequestError`.
        """
        args: RegionAddArgs = command.args  # type: ignore[assignment]  # the caller looks
        assert args.text is not None
        question = TextQuestion(
            stream=args.stream,
            text=args.text,
            where=args.where or self.queue.where,
            level=args.level,
            label=args.label,
            standing=args.standing,
            policy=args.policy,
            request=None if args.standing else command,
            key=(command.client, command.request_id),
        )
        self.queue.ask(question)
        if not args.standing:
            return None
        return {"seq": self._streams[args.stream].frame.seq, "standing": True}

    def prompt(self, stream: Stream, prompts: Sequence[TextPrompt], now_ns: int) -> None:
        """Take the texts of the stream's newest frame; those that cannot be asked are refused."""
        for prompt in prompts:
            question = question_of(prompt, stream.frame.stream, self.queue.where)
            question.deadline_ns = None if prompt.standing else now_ns + _PROMPT_NS
            self._ask_or_refuse(question, now_ns)

    def _ask_or_refuse(self, question: TextQuestion, now_ns: int) -> None:
        try:
            self.queue.ask(question)
        except UrecaError as error:
            self._refuse_prompt(question, [error], now_ns)

    def cancel(self, key: RequestKey) -> bool:
        """Stop what a request asked for; False when there is none (any more)."""
        questions = self.queue.of_key(key)
        for question in questions:
            self._fail(question, _CANCELLED)
        return bool(questions)

    def refuse_late(self, now_ns: int) -> None:
        """Answer those whose deadline has passed, and give up a grounding that is late."""
        for question in self.queue:
            if question.is_late(now_ns):
                self._fail(question, _LATE)
                if question.request is None:
                    self._refuse_prompt(question, [_LATE], now_ns)
        flight = self._flight
        if flight is not None and now_ns > flight.request.deadline_ns:
            self._flight = None
            self._end_failed(flight, "the captioner did not answer in time", now_ns)

    def close(self, error: UrecaError) -> None:
        """End everything; nothing is in flight any more."""
        flight, self._flight = self._flight, None
        for _ in flight.questions if flight is not None else ():
            self._counters.text_ended("abort")
        for question in self.queue:
            self._fail(question, error)

    def forget(self, stream: str, error: UrecaError) -> bool:
        """End all questions of a stream that ends; False while the captioner has one of them."""
        flight = self._flight.questions if self._flight is not None else ()
        if any(question.stream == stream for question in flight):
            return False
        for question in self.queue:
            if question.stream == stream:
                self._fail(question, error)
        self.queue.forget(stream)
        return True

    # --- groundings ------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many texts are at the captioner."""
        return 0 if self._flight is None else len(self._flight.questions)

    @property
    def requests_waiting(self) -> int:
        """How many requests of clients wait for answers."""
        return len({id(one.request) for one in self.queue if one.request is not None})

    def is_idle(self, now_ns: int, *, with_standing: bool) -> bool:
        """True when every text was asked, standing ones at least once where they can be."""
        waits = any(not one.standing for one in self.queue)
        waits |= with_standing and self.queue.awaits_masks(now_ns)
        due = self.queue.due(with_standing=with_standing)
        return self._flight is None and not waits and all(one.asks for one in due)

    def is_waiting(self, *, with_standing: bool) -> bool:
        """Whether a text may be asked now."""
        return self._flight is None and bool(self.queue.due(with_standing=with_standing))

    def take_masks(self, results: Sequence[KeyframeResult], now_ns: int) -> None:
        """Keyframes were cut: texts may be asked of them."""
        frame = None if self._flight is None else self._flight.request.frame
        for question, why in self.queue.take_masks(results, frame):
            error = RequestError(f"the segmenter failed: {why}", code="ENGINE")
            self._fail(question, error)
            if question.request is None:
                self._refuse_prompt(question, [error], now_ns)

    def next(self, now_ns: int, *, with_standing: bool) -> GroundingRequest | None:
        """What the captioner is to ground now; None when all due texts were answered without it."""
        while questions := self.queue.next_group(with_standing=with_standing):
            frame, candidates = self.queue.candidates(questions[0])
            request = GroundingRequest(
                request_id=next(self._ids),
                frame=frame,
                candidates=candidates,
                texts=tuple(dict.fromkeys(one.text for one in questions)),
                level=questions[0].level,
                deadline_ns=now_ns + self._limit_ns,
            )
            for one in questions:
                one.order, one.is_asked, one.asks = None, True, one.asks + 1
                self._counters.text_in()
            flight = _Flight(request, tuple(questions))
            if candidates:
                self._flight = flight
                return request
            nothing = tuple(GroundedText(text, 1.0, ()) for text in request.texts)
            self._answer(flight, nothing, now_ns)
        return None

    def finish(self, groundings: Sequence[FinishedGrounding], now_ns: int) -> None:
        """The captioner has answered."""
        for finished in groundings:
            flight = self._flight
            if flight is None or flight.request.request_id != finished.request_id:
                continue  # it was given up
            self._flight = None
            if finished.failure is not None:
                self._end_failed(flight, finished.failure, now_ns)
            else:
                self._answer(flight, finished.texts, now_ns)

    # --- answers ---------------------------------------------------------------------------------

    def _answer(self, flight: _Flight, texts: Sequence[GroundedText], now_ns: int) -> None:
        grounded = {one.text: one for one in texts}
        for question in flight.questions:
            question.is_asked = False
            one = grounded.get(question.text)
            if question.is_over or one is None:
                self._counters.text_ended("abort")
                continue
            if question.standing:
                one = one.at_least(self._min_standing)
            self._counters.text_ended("found" if one.regions else "absent")
            if question.starts:
                self._follow_answer(question, one, flight.request, now_ns)
            else:
                self._take_found(question, one, flight.request)
        self.queue.end_masks(flight.questions[0], flight.request.frame)

    def _end_failed(self, flight: _Flight, failure: str, now_ns: int) -> None:
        """Requests and prompts hear of the failure, standing texts are asked again."""
        error = RequestError(failure, code="ENGINE")
        for question in flight.questions:
            question.is_asked = False
            self._counters.text_ended("abort" if question.is_over else "error")
            if question.is_over or question.standing:
                continue
            self._fail(question, error)
            if question.request is None:
                self._refuse_prompt(question, [error], now_ns)
        self.queue.end_masks(flight.questions[0], flight.request.frame)

    def _take_found(
        self, question: TextQuestion, one: GroundedText, request: GroundingRequest
    ) -> None:
        search = self._search_of(question)
        search.found += found_regions(one, request, masks=search.request.args.masks)
        search.nones.append(one.none)
        self._end_search(question, search)

    def _follow_answer(
        self, question: TextQuestion, one: GroundedText, request: GroundingRequest, now_ns: int
    ) -> None:
        """Follow, or name, the regions of the answer, and tell of it."""
        stream = self._streams[question.stream]
        answer = follow_answer(question, one, request, stream, take=self._take, now_ns=now_ns)
        if answer.regions or (not one.regions and question.tell_absent(now_ns)):
            event = text_event(question.text, one.none, request.frame, answer.regions)
            self._take(StreamUpdate([event], ()))
        question.rids = frozenset(found.rid for found in answer.regions if found.rid)
        if not question.standing:
            self.queue.drop(question)
        if question.request is not None:
            best = answer.regions[0].rid if answer.regions else None
            policy = {} if best is None else plain_policy(stream.policies.of(best))
            result = added(stream.frame.seq, one.none, answer.regions, policy)
            is_refused = bool(one.regions) and not answer.regions
            self._reply(question.request, answer.refusals[0] if is_refused else result)
        elif answer.refusals:
            self._refuse_prompt(question, answer.refusals, now_ns)

    def _refuse_prompt(
        self, question: TextQuestion, errors: Sequence[UrecaError], now_ns: int
    ) -> None:
        stream = self._streams[question.stream]
        self._refuse(stream, [_refusal(question.text, error) for error in errors], now_ns)

    def _fail(self, question: TextQuestion, error: UrecaError) -> None:
        """End a question, and answer who asked it."""
        self.queue.drop(question)
        if isinstance(question.request, FindRequest):
            search = self._search_of(question)
            search.refusals.append(error)
            self._end_search(question, search)
        elif question.request is not None:
            self._reply(question.request, error)

    def _search_of(self, question: TextQuestion) -> StreamSearch:
        return next(one for one in self._searches if question in one.open_questions)

    def _end_search(self, question: TextQuestion, search: StreamSearch) -> None:
        self.queue.drop(question)
        search.open_questions.remove(question)
        if not search.open_questions:
            self._searches.remove(search)
            self._reply(search.request, search.result())


def _refusal(text: str, error: UrecaError) -> Refusal:
    return Refusal(None, f"the text {text[:40]!r}: {error}")
