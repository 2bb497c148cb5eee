"""Runs the steps of a recording through `Pipeline.step` again.

Pure: no threads, no clock of its own. The engine generates its captions again when a batch is
decided on; their ends are part of the recorded inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ureca.clock import ManualClock
from ureca.datatypes import Image
from ureca.engine import Engine
from ureca.node.config import NodeConfig
from ureca.node.counters import Balance, NodeCounters
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.recording import schemas
from ureca.node.recording.header import config_of, prompts_of
from ureca.node.recording.reader import Recording, digest
from ureca.node.recording.recorded_engine import ReplayWriter
from ureca.node.recording.step_log import (
    RecordedGrounding,
    RecordedRequest,
    RecordedStep,
    answers,
    recorded_batch,
    recorded_grounding,
    step_input,
)
from ureca.protocol.events import AnyEvent, CaptionTerminal, RegionEvent, TextEvent

_STAMPS = frozenset({"session_id", "event_seq", "pub_ns", "stage_us", "age_at_pub_ms", "drop"})
"""What two runs of the same decisions may differ in: identities of the process and durations."""

Story = dict[str, Any]


@dataclass
class Replayed:
    """The decisions and captions of a replay; equal replays have equal `digest`s."""

    batches: dict[int, list[RecordedRequest]] = field(default_factory=dict)
    """By step, the batch that was decided on."""
    groundings: dict[int, RecordedGrounding] = field(default_factory=dict)
    """By step, the texts that were decided to be asked; their answers are in the recording."""
    answers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """By step, what requests that change regions, and texts of clients, led to."""
    tracks: dict[int, bytes] = field(default_factory=dict)
    """By step, the sha256 of all regions, masks included."""
    events: list[AnyEvent] = field(default_factory=list)
    replies: list[AnyEvent] = field(default_factory=list)
    balance: Balance | None = None
    gap: str | None = None
    """Why the replay ended before the recording did."""

    @property
    def digest(self) -> str:
        """The hash of all decisions, masks and captions."""
        story = (
            sorted(self.batches.items()),
            sorted(self.groundings.items()),
            sorted(self.answers.items()),
            [(step, seen.hex()) for step, seen in sorted(self.tracks.items())],
            [
                event_story(event)
                for event in self.events
                if isinstance(event, RegionEvent | TextEvent)
            ],
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
    on_step: Callable[[], object] = lambda: None,
) -> Replayed:
    """Run all steps of a recording; ends early where a picture is missing.

    `config` replaces the recorded one, to see what another configuration would have decided. Raises
    `SourceError` for a recording whose head makes no sense.
    """
    return _Replay(recording, engine, config or config_of(recording)).run(iter(pictures), on_step)


class _Replay:
    def __init__(self, recording: Recording, engine: Engine, config: NodeConfig) -> None:
        self._steps = recording.steps
        self._clock = ManualClock(recording.steps[0].now_ns if recording.steps else 0)
        self._counters = NodeCounters()
        self._found = Replayed()
        self._max_px = config.limits.max_image_px
        self._writer = ReplayWriter(recording, engine, config, self._clock)
        self._pipeline = Pipeline(
            config, clock=self._clock, counters=self._counters, prompts=prompts_of(recording)
        )

    def run(self, pictures: Iterator[tuple[int, Image]], on_step: Callable[[], object]) -> Replayed:
        for step in self._steps:
            self._clock.advance(ns=max(0, step.now_ns - self._clock.now_ns()))
            image = _picture(step, pictures)
            if step.frame is not None and image is None:
                self._found.gap = f"the picture of step {step.number} was not recorded"
                break
            self._step(step, image)
            on_step()
        self._found.balance = self._counters.balance()
        return self._found

    def _step(self, step: RecordedStep, image: Image | None) -> None:
        found, number = self._found, step.number
        self._counters.frame_in(step.frame is not None)
        output = self._pipeline.step(step_input(step, image, self._reply, max_px=self._max_px))
        found.events += output.events
        if output.tracks is not None:
            found.tracks[number] = digest(msgspec.json.encode(schemas.tracks(output.tracks)))
        if answered := answers(output.replies):
            found.answers[number] = answered
        grounding = recorded_grounding(output.grounding)
        if grounding is not None:
            found.groundings[number] = grounding
        if output.batch is not None:
            found.batches[number] = recorded_batch(output.batch)
            self._writer.write(output.batch, found.events.append)

    def _reply(self, event: AnyEvent) -> None:
        if isinstance(event, CaptionTerminal):
            self._found.replies.append(event)


def _picture(step: RecordedStep, pictures: Iterator[tuple[int, Image]]) -> Image | None:
    """The picture of `step`; those of steps that were lost are passed over."""
    if step.frame is None:
        return None
    for number, image in pictures:
        if number >= step.number:
            return image if number == step.number else None
    return None
