"""Texts in the pipeline under any order of questions, answers, failures, cancels and deadlines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ureca.clock import ManualClock
from ureca.config import from_plain
from ureca.datatypes import TextPrompt
from ureca.invariants import imbalances
from ureca.node.captioning.batch import FinishedCaption
from ureca.node.captioning.grounding import (
    FinishedGrounding,
    GroundedRegion,
    GroundedText,
    GroundingRequest,
)
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step import FindRequest, RegionCommand, StepInput, StepOutput
from ureca.protocol.operations import OPERATIONS
from ureca.protocol.region_requests import RegionAddArgs
from ureca.protocol.requests import FindArgs
from ureca.testing import SyntheticSource

S = 1_000_000_000
SOURCE = SyntheticSource(things=3, width_px=64, height_px=48)
CONFIG = from_plain(
    NodeConfig,
    {"grounding": {"texts": ["a blue thing"], "every_frames": 2}, "scheduler": {"deadline_s": 2.0}},
)
TEXTS = st.sampled_from(["a red thing", "a mug", "two things"])
ACTIONS = st.one_of(
    st.tuples(st.just("frame"), st.integers(0, 3)),
    st.tuples(st.just("find"), TEXTS),
    st.tuples(st.just("add"), TEXTS),
    st.tuples(st.just("stand"), TEXTS),
    st.tuples(st.just("prompt"), TEXTS),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("answer"), st.sampled_from(["found", "absent", "failure", "stale"])),
    st.tuples(st.just("wait"), st.integers(1, 3)),
    st.tuples(st.just("halt"), st.sampled_from(["pause", "drain", "resume"])),
)


@dataclass
class World:
    """A pipeline whose captioner answers when the test says so."""

    pipeline: Pipeline = field(init=False)
    counters: NodeCounters = field(default_factory=NodeCounters)
    now_ns: int = S
    seq: int = 0
    asked: int = 0
    flight: GroundingRequest | None = None
    captions: list[FinishedCaption] = field(default_factory=list)
    inputs: list[StepInput] = field(default_factory=list)
    outputs: list[StepOutput] = field(default_factory=list)
    waiting: Counter[bytes] = field(default_factory=Counter)
    events: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = ManualClock(S)
        self.pipeline = Pipeline(CONFIG, clock=self.clock, counters=self.counters)

    def step(self, **given: Any) -> None:
        """One step; what it decides on is taken by the captioner at once."""
        room = 0 if self.flight is not None else 4
        captions, self.captions = tuple(self.captions), []
        made = StepInput(
            self.now_ns, finished_captions=captions, captioner_room=room, can_ground=True, **given
        )
        if made.frame is not None:
            self.counters.frame_in()
        output = self.pipeline.step(made)
        assert output.failure is None, output.failure
        assert output.batch is None or output.grounding is None
        assert output.grounding is None or room > 0
        self.inputs.append(made)
        self.outputs.append(output)
        self.events += output.events
        self.flight = output.grounding or self.flight
        for request in output.batch.requests if output.batch else ():
            self.captions.append(FinishedCaption(request.request_id, "final", self.now_ns))
        for reply in output.replies:
            self.waiting[name_of(reply.request)] -= 1

    def do(self, action: str, value: Any) -> None:
        """One thing that happens to a node."""
        if action == "wait":
            self.now_ns += value * S
            self.step()
        elif action in ("frame", "prompt"):
            self.seq, self.now_ns = self.seq + 1, self.now_ns + S // 10
            source = replace(SOURCE, things=value if action == "frame" else 3)
            texts = (TextPrompt(value),) if action == "prompt" else ()
            self.step(frame=replace(source.frame(self.seq), texts=texts))
        elif action == "answer":
            self.answer(value)
        else:
            self.asked += 1
            request = self.request(action, value)
            self.waiting[name_of(request)] += 1
            self.step(requests=(request,))

    def request(self, action: str, value: Any) -> FindRequest | RegionCommand:
        key, limit_ns = b"%d" % self.asked, self.now_ns + 3 * S
        if action == "find":
            return FindRequest(FindArgs(text=value), no, no, limit_ns, key=(b"me", key))
        args: Any
        if action == "cancel":
            args = OPERATIONS["cancel"].args(id=b"%d" % value)
        elif action == "halt":
            args = OPERATIONS[value].args()
        else:
            args = RegionAddArgs(stream="cam0", text=value, standing=action == "stand")
        return RegionCommand(args, b"me", no, no, limit_ns, key)

    def answer(self, how: str) -> None:
        if self.flight is None:
            return
        flight, self.flight = self.flight, None
        number = flight.request_id - (how == "stale")
        if how == "failure":
            self.step(finished_groundings=(FinishedGrounding(number, failure="broken"),))
            return
        first = (GroundedRegion(0, 0.95),) if how == "found" else ()
        texts = tuple(GroundedText(text, 0.25, first) for text in flight.texts)
        self.step(finished_groundings=(FinishedGrounding(number, texts),))


def no(_: object) -> None:
    """Nobody waits."""


def name_of(request: Any) -> bytes:
    return request.key[1] if isinstance(request, FindRequest) else bytes(request.request_id)


@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=40))
def test_every_question_is_answered_once_and_the_counters_close(actions: list[Any]) -> None:
    world = World()
    world.do("frame", 3)
    for action, value in actions:
        world.do(action, value)
        for name in ("texts", "requests", "frames"):
            assert world.counters.balance().counters()[f"{name}_in_flight"] >= 0
    world.step(closing="source_end")
    assert {name: n for name, n in world.waiting.items() if n} == {}
    counters = world.counters.balance().counters()
    found = [one for one in imbalances(counters) if "requests" not in one]
    assert found == []
    again = World()
    for made, before in zip(world.inputs, world.outputs, strict=True):
        again.counters.frame_in(made.frame is not None)  # a replay decides the same
        output = again.pipeline.step(made)
        assert output.events == before.events
        assert [reply.result for reply in output.replies if isinstance(reply.result, dict)] == [
            reply.result for reply in before.replies if isinstance(reply.result, dict)
        ]
        assert (output.grounding is None) == (before.grounding is None)
    assert again.counters.balance() == world.counters.balance()


@given(st.lists(TEXTS, min_size=1, max_size=30), st.integers(1, 3))
def test_neither_captions_nor_texts_starve(texts: list[str], every: int) -> None:
    """While clients ask without a pause, captions and standing texts go on."""
    world = World()
    world.do("frame", 3)
    captions = 0
    for number in range(30):
        world.do("find", texts[number % len(texts)])
        if number % every == 0:
            world.do("frame", 1 + number % 3)
        world.do("answer", "absent")
        captions += len(world.captions)
    asked = [one.grounding.texts for one in world.outputs if one.grounding is not None]
    assert sum("a blue thing" in one for one in asked) >= 3
    assert captions >= 1
