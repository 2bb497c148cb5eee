"""Runs a recording through `Pipeline.step` again: the same frames, times and ends of captions.

Pure: no threads, no clock of its own. The engine generates its captions again when a batch is
submitted. The pipeline gets their ends at the recorded steps.
"""

from __future__ import annotations

import hashlib
import logging
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from ureca.clock import ManualClock
from ureca.datatypes import Frame, Image, TrackSet
from ureca.engine import Engine
from ureca.errors import SourceError, UrecaError
from ureca.node.captioning.batch import Send
from ureca.node.config import NodeConfig
from ureca.node.counters import Balance, NodeCounters
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.request_queue import Ask, Order
from ureca.node.recording import schemas
from ureca.node.recording.header import config_of, prompts_of
from ureca.node.recording.reader import Recording, digest
from ureca.node.recording.replay_fakes import ReplayCaptioner, ReplaySegmentationWorker
from ureca.node.recording.step_log import RecordedRequest, RecordedStep, failure
from ureca.protocol.events import AnyEvent, CaptionTerminal, RegionEvent
from ureca.protocol.operations import OPERATIONS

_log = logging.getLogger(__name__)
_STAMPS = frozenset({"session_id", "event_seq", "pub_ns", "stage_us", "age_at_pub_ms", "drop"})
"""What two runs of the same decisions may differ in: identities of the process and durations."""

Story = dict[str, Any]


@dataclass
class Replayed:
    """The decisions and captions of a replay; equal replays have equal `digest`s."""

    jobs: dict[int, list[list[RecordedRequest]]] = field(default_factory=dict)
    """By turn, the batches that were started."""
    answers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """By turn, what requests that change regions led to."""
    tracks: dict[int, bytes] = field(default_factory=dict)
    """By turn, the sha256 of all regions, masks included."""
    events: list[AnyEvent] = field(default_factory=list)
    replies: list[AnyEvent] = field(default_factory=list)
    balance: Balance | None = None
    gap: str | None = None
    """Why the replay ended before the recording did."""

    @property
    def digest(self) -> str:
        """The hash of all decisions, masks and captions."""
        story = (
            sorted(self.jobs.items()),
            sorted(self.answers.items()),
            [(turn, seen.hex()) for turn, seen in sorted(self.tracks.items())],
            [event_story(event) for event in self.events if isinstance(event, RegionEvent)],
            [event_story(event) for event in self.replies],
        )
        return hashlib.sha256(msgspec.json.encode(story)).hexdigest()


def event_story(event: AnyEvent) -> Story:
    """An event without stamps of the process and durations."""
    plain = msgspec.to_builtins(event)
    return {key: value for key, value in plain.items() if key not in _STAMPS}


def replay(
    recording: Recording,
    engine: Engine,
    pictures: Iterable[tuple[int, Image]],
    *,
    config: NodeConfig | None = None,
    on_turn: Callable[[], object] = lambda: None,
) -> Replayed:
    """Run all turns of a recording; ends early where a picture is missing.

    `config` replaces the recorded one, to see what another configuration would have decided. Raises
    `SourceError` for a recording whose head makes no sense.
    """
    return _Replay(recording, engine, config or config_of(recording)).go(iter(pictures), on_turn)


class _Replay:
    def __init__(self, recording: Recording, engine: Engine, config: NodeConfig) -> None:
        self._turns = recording.turns
        self.clock = ManualClock(recording.turns[0].now_ns if recording.turns else 0)
        self._books = NodeCounters()
        self._found = Replayed()
        self._max_px = config.limits.max_image_px
        self._captioner = ReplayCaptioner(recording, engine, config, self.clock)
        self._segmentation_worker = ReplaySegmentationWorker()
        self._pipeline = Pipeline(
            config,
            self._captioner,
            segmentation_worker=self._segmentation_worker if config.segmenter.model else None,
            clock=self.clock,
            books=self._books,
            prompts=prompts_of(recording),
            emit=self._found.events.append,
        )

    def go(self, pictures: Iterator[tuple[int, Image]], on_turn: Callable[[], object]) -> Replayed:
        found = self._found
        for turn in self._turns:
            self.clock.advance(ns=max(0, turn.now_ns - self.clock.now_ns()))
            self._captioner.begin(turn)
            self._segmentation_worker.begin(turn)
            frame = _frame(turn, pictures)
            if turn.frame is not None and frame is None:
                found.gap = f"the picture of turn {turn.n} was not recorded"
                break
            self._ask(turn)
            self._call(turn, frame)
            if self._captioner.jobs:
                found.jobs[turn.n] = self._captioner.jobs
            on_turn()
        found.balance = self._books.balance()
        return found

    def _call(self, turn: RecordedStep, frame: Frame | None) -> None:
        try:
            if frame is not None:
                self._books.frame_in()
                self._pipeline.step(frame, turn.now_ns)
                self._look(turn, frame)
            elif turn.call == "tick":
                self._pipeline.tick(turn.now_ns)
            elif turn.call == "settle":
                self._pipeline.settle()
            else:
                self._pipeline.close(turn.reason, turn.now_ns)
        except Exception:  # noqa: BLE001  (the node goes on after such a turn, too)
            _log.exception("turn %d failed", turn.n)

    def _look(self, turn: RecordedStep, frame: Frame) -> None:
        tracks = tracks_of(self._pipeline, frame.stream)
        if tracks is not None:
            self._found.tracks[turn.n] = digest(msgspec.json.encode(schemas.tracks(tracks)))

    def _ask(self, turn: RecordedStep) -> None:
        """Asks and orders go into different queues: between them the order does not matter."""
        answers = self._found.answers.setdefault(turn.n, []) if turn.orders else []
        for plain in turn.orders:
            self._put(partial(self._pipeline.order, _order(plain, answers)))
        for plain in turn.asks:
            self._put(partial(self._pipeline.ask, _ask(plain, self._reply, self._max_px)))

    @staticmethod
    def _put(put: Callable[[], None]) -> None:
        try:
            put()
        except UrecaError as error:
            _log.info("a request was refused again: %s", error)

    def _reply(self, event: AnyEvent) -> None:
        if isinstance(event, CaptionTerminal):
            self._found.replies.append(event)


def tracks_of(pipeline: Pipeline, stream: str) -> TrackSet | None:
    """The regions of a stream after the newest frame."""
    known = pipeline._streams.get(stream)  # noqa: SLF001  (the replay looks behind the curtain)
    return None if known is None else known.tracks


def _frame(turn: RecordedStep, pictures: Iterator[tuple[int, Image]]) -> Frame | None:
    if turn.frame is None:
        return None
    for number, image in pictures:
        if number == turn.n:
            return typing.cast("Frame", _built(Frame, turn.frame, image=image))
        if number > turn.n:
            return None
    return None


def _ask(plain: dict[str, Any], reply: Send, max_px: int) -> Ask:
    given = dict(plain)
    frame, png = given.pop("frame", None), given.pop("png", None)
    if frame is not None:
        image = decode_picture(msgspec.convert(png, bytes), max_px=max_px)
        frame = _built(Frame, frame, image=image)
    told = typing.cast("Callable[[UrecaError], None]", lambda _: None)
    return typing.cast("Ask", _built(Ask, given, frame=frame, reply=reply, fail=told))


def _order(plain: dict[str, Any], answers: list[dict[str, Any]]) -> Order:
    given = dict(plain)
    try:
        args = msgspec.convert(given.pop("args"), OPERATIONS[given.pop("op")].args)
    except (KeyError, msgspec.ValidationError) as error:
        raise SourceError(f"not a recorded order: {error}") from error
    fail = lambda error: answers.append(failure(error))  # noqa: E731
    return typing.cast("Order", _built(Order, given, args=args, reply=answers.append, fail=fail))


def _built(kind: Any, plain: dict[str, Any], **more: Any) -> Any:  # a dataclass of any kind
    """A dataclass from what `step_log.dataclass_fields` made of it; unknown fields of older
    recordings are left out.
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
        raise SourceError(f"not a recorded {kind.__name__}: {error}") from error
