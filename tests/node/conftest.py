"""Parts of a node without sockets, threads or weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
import pytest

from ureca.clock import ManualClock
from ureca.datatypes import Frame, Image
from ureca.invariants import imbalances
from ureca.node.captioning.batch_captioner import CaptionWriter, InlineCaptioner
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step_runner import StepRunner
from ureca.node.sources.prompt_file import Prompts
from ureca.protocol.events import AnyEvent
from ureca.testing import EventCapture, ScriptedEngine

SESSION_ID = bytes(range(16))


class Replay:
    """A whole node as a function: frames in, events out. Its counters must balance in the end."""

    made: ClassVar[list[Replay]] = []

    def __init__(
        self,
        config: NodeConfig | None = None,
        engine: ScriptedEngine | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        self.config = config or NodeConfig()
        self.engine = engine or ScriptedEngine()
        self.clock = ManualClock(1_000_000_000)
        self.counters = NodeCounters()
        self.events = EventCapture()
        writer = CaptionWriter(self.engine, self.config.caption, self.clock)
        self.pipeline = Pipeline(
            self.config, clock=self.clock, counters=self.counters, prompts=prompts
        )
        self.runner = StepRunner(
            self.pipeline,
            InlineCaptioner(writer),
            limits=self.config.limits,
            clock=self.clock,
            emit=self.events,
        )
        self.runner.start()
        self.made.append(self)

    def play(self, frames: Iterable[Frame]) -> EventCapture:
        for frame in frames:
            self.clock.advance(ns=max(0, frame.captured_ns - self.clock.now_ns()))
            self.counters.frame_in()
            self.step(frame)
        return self.events

    def step(self, frame: Frame | None = None) -> list[AnyEvent]:
        """One step at the clock's time; the events that it led to."""
        before = len(self.events.events)
        output = self.runner.step(frame)
        if output.failure is not None:
            raise output.failure
        return self.events.events[before:]

    def close(self) -> list[AnyEvent]:
        before = len(self.events.events)
        self.runner.close("source_end")
        return self.events.events[before:]

    def check(self) -> None:
        """Nothing may be open after the end, whatever the test did before."""
        self.close()
        found = imbalances(self.counters.balance().counters(), self.events.events)
        assert not found, found


@pytest.fixture(autouse=True)
def _conserved() -> Iterator[None]:
    """Every frame and every request of every replay ended in exactly one counted way."""
    Replay.made.clear()
    yield
    while Replay.made:
        Replay.made.pop().check()


def textured(height: int, width: int, *, seed: int, low: int, high: int) -> Image:
    """A picture with structure at all scales, so that flow has something to hold on to."""
    draw = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cells in (4, 8, 16, 32):
        noise = draw.random((-(-height // cells), -(-width // cells), 3))
        picture += noise.repeat(cells, 0).repeat(cells, 1)[:height, :width]
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    return np.asarray(low + (high - low) * picture, np.uint8)


class Scene:
    """A textured disc that moves right over a textured ground; a wall may hide it."""

    height, width, radius = 120, 160, 14

    def __init__(self, *, wall: tuple[int, int] | None = None, step_px: float = 2.0) -> None:
        self.ground = textured(self.height, self.width, seed=1, low=60, high=130)
        self.disc = textured(2 * self.radius, 2 * self.radius, seed=2, low=0, high=120)
        self.disc[..., 0] = np.maximum(self.disc[..., 0], 170)
        self.wall_colour = textured(self.height, self.width, seed=3, low=0, high=60)
        self.wall, self.step_px = wall, step_px

    def x(self, seq: int) -> int:
        return round(30 + self.step_px * seq)

    def full_mask(self, seq: int) -> np.ndarray:
        ys, xs = np.mgrid[: self.height, : self.width]
        disc = (ys - 60) ** 2 + (xs - self.x(seq)) ** 2 < self.radius**2
        return np.asarray(disc, np.bool_)

    def mask(self, seq: int) -> np.ndarray:
        mask = self.full_mask(seq)
        if self.wall is not None:
            mask[:, self.wall[0] : self.wall[1]] = False
        return mask

    def frame(self, seq: int) -> Frame:
        image = self.ground.copy()
        mask = self.full_mask(seq)
        ys, xs = np.nonzero(mask)
        image[mask] = self.disc[ys - 60 + self.radius, xs - self.x(seq) + self.radius]
        if self.wall is not None:
            walled = slice(self.wall[0], self.wall[1])
            image[:, walled] = self.wall_colour[:, walled]
        at_ns = 1_000_000_000 + seq * 40_000_000
        return Frame("cam0", SESSION_ID, seq, at_ns, image, received_ns=at_ns)
