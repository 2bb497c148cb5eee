"""The decisions of a step: track, schedule, and select the next captions and keyframes.

`step(StepInput) -> StepOutput` is the deterministic test interface. It has no sockets, no threads
and no queue, and it waits for nothing: everything that decides is in its input and in the streams
so far. One thread calls `step`. The clock measures durations and the age of what hangs; it decides
nothing.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ureca.clock import Clock
from ureca.datatypes import Frame, Refusal, RegionRequest, RegionSeed, TextPrompt, TrackSet
from ureca.errors import RequestError, UrecaError
from ureca.log import RateLimitedLog
from ureca.node.captioning.batch import CaptionBatch, FinishedCaption
from ureca.node.captioning.caption_events import refused_region
from ureca.node.config import NodeConfig
from ureca.node.counters import End, NodeCounters
from ureca.node.monitoring.found_things import FoundThings
from ureca.node.monitoring.prompt_report import UNUSED_AFTER_S, PromptReport
from ureca.node.pipeline.keyframe_selection import KeyframeSelection
from ureca.node.pipeline.region_commands import RegionCommands
from ureca.node.pipeline.start_prompts import StartPrompts
from ureca.node.pipeline.step import (
    DescribeRequest,
    FindRequest,
    RegionCommand,
    RequestKey,
    StepInput,
    StepOutput,
    StepReply,
    StepRequest,
    busy,
)
from ureca.node.pipeline.stream import Stream, StreamUpdate, resolve
from ureca.node.pipeline.text_search import TextSearch
from ureca.node.scheduling.scheduler import Abort
from ureca.node.scheduling.stream_arbiter import DIRECT, TEXTS, RunMode, StreamArbiter
from ureca.node.sources.prompt_file import Prompts
from ureca.protocol.events import EventSink

_CLOSED = RequestError("the node is shutting down", code="GONE")
_LATE = RequestError("no caption before the deadline", code="DEADLINE")
_SILENT_NS = 60_000_000_000
"""A stream without a frame for this long gives its place to another one."""
_SILENT = RequestError("the stream was silent and gave its place to another one", code="GONE")
_DRAINING = RequestError("the node drains: ask after `resume`", code="GONE")
_CANNOT_GROUND = RequestError(
    "the node's bundle has no weights for texts (section 'grounding'); start the node with one "
    "that has them",
    code="NO_MODEL",
)


class Pipeline:
    """The node's decisions, for all of its streams."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Clock,
        counters: NodeCounters,
        prompts: Prompts | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._counters = counters
        self._prompts = StartPrompts(prompts) if prompts else None
        self._started_ns = clock.now_ns()
        self._streams: dict[str, Stream] = {}
        self._describes: list[DescribeRequest] = []
        self._commands = RegionCommands(
            self._streams,
            take=self._take,
            cancel=self._cancel,
            set_run_mode=self._set_run_mode,
            add_text=self._add_text,
        )
        self._in_flight: dict[int, RegionRequest] = {}
        self._direct: dict[int, RequestKey] = {}
        self._ids = itertools.count(1)
        self._arbiter = StreamArbiter()
        self._log = RateLimitedLog(logging.getLogger(__name__), clock)
        self._keyframes = (
            KeyframeSelection(self._streams, clock) if config.segmenter.is_on else None
        )
        self._texts = TextSearch(
            config,
            self._streams,
            counters,
            self._ids,
            take=self._take,
            reply=self._reply,
            refuse=self._refuse_regions,
        )
        self._can_ground = False
        self._output = StepOutput()

    def step(self, given: StepInput) -> StepOutput:
        """Decide on one input. Never raises: a fault of ours ends the step, and is in
        `StepOutput.failure`.
        """
        self._output = output = StepOutput()
        self._can_ground = given.can_ground
        try:
            self._accept([r for r in given.requests if isinstance(r, DescribeRequest)])
            self._finish_captions(given.finished_captions)
            if self._keyframes is not None:
                self._keyframes.finish(given.finished_keyframes)
            self._texts.take_masks(given.finished_keyframes, given.now_ns)
            self._texts.finish(given.finished_groundings, given.now_ns)
            if given.closing:
                self._close(given)
            else:
                self._go_on(given)
        except Exception as failure:  # noqa: BLE001  (it costs one frame; the caller tells of it)
            output.failure = failure
            if given.frame is not None:
                self._counters.frame_dropped("internal")
        return output

    def _go_on(self, given: StepInput) -> None:
        frame = given.frame
        self._run_commands(given)
        self._find(given)
        if frame is not None and not self._has_place(frame.stream, given.now_ns):
            self._counters.frame_dropped("busy")
            return
        if frame is not None:
            self._follow(frame, given.now_ns)
        else:
            self._begin_things(given.now_ns)
        self._schedule(given.now_ns, given.captioner_room)
        if frame is not None:
            self._counters.frame_processed()

    # --- what other threads may read -------------------------------------------------------------

    def is_idle(self) -> bool:
        """True when no caption is in flight and every visible region had its chance of one."""
        waiting = any(s.scheduler.uncaptioned and not self.run_mode for s in self._streams.values())
        now_ns = self._clock.now_ns()
        is_asked = self._texts.is_idle(now_ns, with_standing=not self.run_mode)
        is_open = waiting or self._describes or self._awaits_things(now_ns)
        return not self._in_flight and not is_open and is_asked

    def _awaits_things(self, now_ns: int) -> bool:
        """Whether nothing is followed yet and the segmenter is still looking for things."""
        if self._keyframes is None or not self._config.segmenter.everything:
            return False
        empty = [stream for stream in self._streams.values() if not stream.tracks.tracks]
        if any(stream.is_uncut for stream in empty) and not self._keyframes.is_busy:
            return True
        return bool(empty) and self._keyframes.is_at_work(now_ns)

    @property
    def in_flight(self) -> int:
        """How many caption requests and texts the captioner has that have no end yet."""
        return len(self._in_flight) + self._texts.in_flight

    @property
    def describes_waiting(self) -> int:
        """How many `describe` requests wait for their turn."""
        return len(self._describes)

    @property
    def finds_waiting(self) -> int:
        """How many requests wait for the answers to their texts."""
        return self._texts.requests_waiting

    @property
    def run_mode(self) -> RunMode:
        """The run mode set by `pause` and `drain`; empty while captions are generated."""
        return self._arbiter.run_mode

    def streams(self) -> dict[str, dict[str, int]]:
        """The heartbeat data of each stream."""
        return {name: stream.facts() for name, stream in list(self._streams.items())}

    def views(self) -> dict[str, tuple[Frame, TrackSet]]:
        """Per stream its newest frame and its regions."""
        return {name: (stream.frame, stream.tracks) for name, stream in list(self._streams.items())}

    def found_things(self) -> FoundThings:
        """What the segmenter found by itself."""
        counts = [stream.corrections for stream in list(self._streams.values())]
        left_out = sum((one.left_out for one in counts), Counter[str]())
        return FoundThings(sum(one.counts["began"] for one in counts), left_out)

    def prompt_report(self) -> PromptReport:
        """What became of the prompts that the node was started with."""
        return PromptReport() if self._prompts is None else self._prompts.report()

    def reasons(self) -> list[str]:
        """Why captions are not what they should be."""
        frozen = [stream.frozen_reason for stream in list(self._streams.values())]
        found = [reason for reason in frozen if reason is not None]
        if self._keyframes is not None:
            found += self._keyframes.reasons(self._clock.now_ns())
        if self._clock.now_ns() - self._started_ns > UNUSED_AFTER_S * 1e9:
            found += self.prompt_report().waiting_lines()
        return found

    # --- frames ----------------------------------------------------------------------------------

    def _has_place(self, name: str, now_ns: int) -> bool:
        if name in self._streams or len(self._streams) < self._config.limits.max_streams:
            return True
        silent = [one for one in self._streams.values() if one.is_silent(now_ns, _SILENT_NS)]
        return any(self._end_stream(one, now_ns) for one in silent)

    def _end_stream(self, stream: Stream, now_ns: int) -> bool:
        """End a silent stream, for another one; False while texts are asked of it."""
        name = stream.frame.stream
        if not self._texts.forget(name, _SILENT):
            return False
        self._take(stream.close("stream_silent", now_ns=now_ns))
        del self._streams[name]
        return True

    def _follow(self, frame: Frame, now_ns: int) -> None:
        stream = self._streams.get(frame.stream) or Stream(frame, self._config, self._ids)
        started_ns = self._clock.now_ns()
        due = () if self._prompts is None else self._prompts.due(frame)
        given = [one for one in due if isinstance(one, RegionSeed)]
        update = stream.follow(frame, (*given, *frame.prompts), now_ns=now_ns)
        if self._prompts is not None:
            self._prompts.note(RegionSeed, update.prompt_refusals[: len(given)])
        stream.track_us = (self._clock.now_ns() - started_ns) // 1000
        self._streams[frame.stream] = stream
        self._output.tracks = stream.tracks
        self._take(update)
        if update.refused:
            self._refuse_regions(stream, update.refused, now_ns)
        self._ask_texts(stream, [one for one in due if isinstance(one, TextPrompt)], now_ns)
        self._select_keyframe(stream, now_ns)
        self._renew(stream, now_ns)

    def _begin_things(self, now_ns: int) -> None:
        """No frame has come, perhaps none will: what a segmenter found begins on the newest, and
        streams that had no keyframe yet get one.
        """
        if self._keyframes is None or not self._config.segmenter.everything:
            return
        for stream in self._streams.values():
            if stream.corrections.has_things:
                self._take(stream.begin_things(now_ns=now_ns))
            if stream.is_uncut:
                self._select_keyframe(stream, now_ns)

    def _take(self, update: StreamUpdate) -> None:
        self._output.events += update.events
        self._output.aborts += update.aborts

    def _select_keyframe(self, stream: Stream, now_ns: int) -> None:
        if self._keyframes is None or self._output.keyframe is not None:
            return
        candidates, at_once = self._texts.queue.wants_masks(stream.frame.stream)
        keyframe = self._keyframes.select(stream, now_ns, candidates=candidates, at_once=at_once)
        if keyframe is not None:
            if keyframe.candidates:
                with_parts = self._texts.queue.asks_for_parts(keyframe.frame.stream)
                keyframe = replace(keyframe, with_parts=with_parts)
            self._output.keyframe = keyframe
            self._texts.queue.keyframe_taken(keyframe, now_ns)

    def _refuse_regions(self, stream: Stream, refused: Sequence[Refusal], now_ns: int) -> None:
        """Count each refused region and report some: it ends in an error, as every request does."""
        self._counters.region_refused(len(refused))
        for refusal in stream.refusals.due(refused, now_ns=now_ns):
            self._log.warning(refusal.reason[:40], f"a region is refused: {refusal.reason}")
            self._counters.request_in()
            self._counters.request_ended("error")
            event = refused_region(refusal, stream.frame.stream, next(self._ids))
            self._output.events.append(event)

    def _renew(self, stream: Stream, now_ns: int) -> None:
        """Only a new frame can say that a caption still holds."""
        for event in stream.renew(now_ns=now_ns):
            self._counters.request_in()
            self._counters.request_ended("same")
            self._output.events.append(event)

    # --- requests --------------------------------------------------------------------------------

    def _accept(self, describes: list[DescribeRequest]) -> None:
        """Let requests wait for their turn; none while the node drains or when too many wait."""
        limit = self._config.limits.max_asks
        for request in describes:
            if self.run_mode == "draining":
                self._output.replies.append(StepReply(request, _DRAINING))
            elif len(self._describes) >= limit:
                self._output.replies.append(StepReply(request, busy(limit)))
            else:
                self._counters.request_in()
                self._describes.append(request)

    def _run_commands(self, given: StepInput) -> None:
        commands = [r for r in given.requests if isinstance(r, RegionCommand)]
        for command in commands:
            result = self._commands.run(command, now_ns=given.now_ns)
            if result is not None:
                self._reply(command, result)
        for stream in self._streams.values() if commands else ():
            self._select_keyframe(stream, given.now_ns)  # the new regions are on this very frame

    def _reply(self, request: StepRequest, result: dict[str, Any] | UrecaError) -> None:
        self._output.replies.append(StepReply(request, result))

    def _set_run_mode(self, run_mode: RunMode) -> int:
        """Halt or go on; returns how many caption requests are open."""
        self._arbiter.run_mode = run_mode
        return self._counters.balance().requests_in_flight + self._texts.requests_waiting

    def _cancel(self, key: RequestKey) -> bool:
        """Stop a `describe` or a text wherever it is; False when there is none (any more)."""
        request = next((one for one in self._describes if one.key == key), None)
        if request is not None:
            self._refuse([request], RequestError("cancelled", code="GONE"), "abort")
            return True
        written = [number for number, asked in self._direct.items() if asked == key]
        self._output.aborts += [Abort(number, "cancelled") for number in written]
        return bool(written) or self._texts.cancel(key)

    def _refuse(self, requests: list[DescribeRequest], error: UrecaError, end: End) -> None:
        for request in requests:
            self._counters.request_ended(end)
            self._output.replies.append(StepReply(request, error))
        self._describes = [one for one in self._describes if not any(one is r for r in requests)]

    # --- texts -----------------------------------------------------------------------------------

    def _find(self, given: StepInput) -> None:
        finds = [r for r in given.requests if isinstance(r, FindRequest)]
        for request in finds:
            error = self._text_refusal()
            if error is not None:
                self._reply(request, error)
            else:
                self._texts.find(request)
        for stream in self._streams.values() if finds or given.captioner_room else ():
            if self._texts.queue.wants_masks(stream.frame.stream)[1]:
                self._select_keyframe(stream, given.now_ns)

    def _add_text(self, command: RegionCommand) -> dict[str, Any] | None:
        error = self._text_refusal()
        if error is not None:
            raise error
        return self._texts.add(command)

    def _text_refusal(self) -> RequestError | None:
        """Why no text is taken now."""
        limit = self._config.limits.max_finds
        if self.run_mode == "draining":
            return _DRAINING
        if self._texts.requests_waiting >= limit:
            return busy(limit)
        return None if self._can_ground else _CANNOT_GROUND

    def _ask_texts(self, stream: Stream, given: Sequence[TextPrompt], now_ns: int) -> None:
        """Take the texts of a frame and those `given` for it, and look which standing ones are
        due.
        """
        texts = (*given, *stream.frame.texts)
        if self._prompts is not None:
            can_not = None if self._can_ground else str(_CANNOT_GROUND)
            self._prompts.note(TextPrompt, [can_not] * len(given))
        if self._can_ground:
            self._texts.prompt(stream, texts, now_ns)
            self._texts.queue.follow(stream)
        else:
            refused = [Refusal(None, f"{one.text[:40]!r}: {_CANNOT_GROUND}") for one in texts]
            self._refuse_regions(stream, refused, now_ns)

    # --- captions --------------------------------------------------------------------------------

    def _finish_captions(self, finished: Sequence[FinishedCaption]) -> None:
        for one in finished:
            request = self._in_flight.pop(one.request_id, None)
            if request is None:
                continue  # only in a replay with another configuration
            self._counters.request_ended(one.end)
            stream = self._streams.get(request.stream)
            is_direct = self._direct.pop(one.request_id, None) is not None
            if stream is not None and not is_direct:
                has_caption = one.end == "final"
                stream.scheduler.ended(request, has_caption=has_caption, now_ns=one.ended_ns)

    def _schedule(self, now_ns: int, captioner_room: int) -> None:
        late = [request for request in self._describes if now_ns > request.deadline_ns]
        if late:
            self._refuse(late, _LATE, "abort")
        self._texts.refuse_late(now_ns)
        free_slots = min(captioner_room, self._config.scheduler.max_batch)
        if free_slots < 1:
            return
        priorities = {n: s.scheduler.priority(now_ns=now_ns) for n, s in self._streams.items()}
        has_texts = self._texts.is_waiting(with_standing=not self.run_mode)
        chosen = self._arbiter.choose(
            priorities, has_requests=bool(self._describes), has_texts=has_texts
        )
        if chosen == DIRECT:
            self._start_describes(free_slots, now_ns)
        elif chosen == TEXTS:
            self._arbiter.mark_served(chosen)
            self._output.grounding = self._texts.next(now_ns, with_standing=not self.run_mode)
        elif chosen is not None:
            stream = self._streams[chosen]
            requests = stream.pick(free_slots=free_slots, now_ns=now_ns)
            self._counters.request_in(len(requests))
            self._arbiter.mark_served(chosen)
            self._start_batch(stream.frame, requests, {}, stream)

    def _start_describes(self, free_slots: int, now_ns: int) -> None:
        """The oldest direct request and those that share its picture; the picture's own regions
        fill the rest of the batch.
        """
        self._arbiter.mark_served(DIRECT)
        first = self._describes[0]
        alike = [r for r in self._describes if r.frame is first.frame and r.stream == first.stream][
            :free_slots
        ]
        stream = self._streams.get(first.stream) if first.stream else None
        frame = stream.frame if stream else first.frame
        requests: list[RegionRequest] = []
        replies: dict[int, EventSink] = {}
        for describe in alike:
            try:
                request = resolve(describe, frame, stream, request_id=next(self._ids))
            except UrecaError as error:
                self._refuse([describe], error, "error")
                continue
            self._describes = [one for one in self._describes if one is not describe]
            self._direct[request.request_id] = describe.key
            replies[request.request_id] = describe.send
            requests.append(request)
        if stream is not None and requests and not self._arbiter.run_mode:
            fill = stream.pick(free_slots=free_slots - len(requests), now_ns=now_ns)
            self._counters.request_in(len(fill))
            requests += fill
        if frame is not None:
            self._start_batch(frame, requests, replies, stream)

    def _start_batch(
        self,
        frame: Frame,
        requests: Sequence[RegionRequest],
        replies: dict[int, EventSink],
        stream: Stream | None,
    ) -> None:
        if not requests:
            return
        track_us = stream.track_us if stream is not None else 0
        self._in_flight |= {request.request_id: request for request in requests}
        self._output.batch = CaptionBatch(frame, tuple(requests), replies, track_us)

    # --- the end ---------------------------------------------------------------------------------

    def _close(self, given: StepInput) -> None:
        """End every request and every region; nothing is in flight any more."""
        self._refuse(list(self._describes), _CLOSED, "abort")
        for request in given.requests:
            if not isinstance(request, DescribeRequest):
                self._reply(request, _CLOSED)
        self._texts.close(_CLOSED)
        for stream in self._streams.values():
            self._take(stream.close(given.closing, now_ns=given.now_ns))
