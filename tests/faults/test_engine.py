"""What an engine does to a node: numbers that are not finite, errors, and not coming back."""

from __future__ import annotations

import threading

import pytest

from tests.node.conftest import Replay
from ureca.clock import ManualClock
from ureca.invariants import imbalances
from ureca.native_threads import running
from ureca.node.captioning import batch_captioner as captioner_module
from ureca.node.captioning.batch_captioner import CaptionWriter, ThreadCaptioner
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step import DescribeRequest
from ureca.node.pipeline.step_runner import StepRunner
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import AnyEvent, CaptionAbort, CaptionError
from ureca.testing import ScriptedEngine, Step, SyntheticSource

S = 1_000_000_000


@pytest.mark.parametrize(("fault", "code"), [("non_finite", "BAD_OUTPUT"), ("raise", "ENGINE")])
def test_a_fault_of_one_batch_is_an_error_and_the_next_batch_captions(
    fault: Step, code: str
) -> None:
    node = Replay(engine=ScriptedEngine(hook=lambda call, token: "ok" if call else fault))
    node.play(SyntheticSource(frames=60))
    errors = node.events.of("caption.error")
    assert [e.code for e in errors if isinstance(e, CaptionError)] == [code] * 3
    assert {e.rid for e in node.events.of("caption.final")} == {"red", "green", "blue"}  # type: ignore[union-attr]
    assert node.counters.balance().requests_ended["error"] == 3


def test_a_word_that_takes_past_the_deadline_aborts_and_the_next_batch_captions() -> None:
    node = Replay()

    def slow(call: int, token: int) -> Step:
        node.clock.advance(ms=6000 if (call, token) == (0, 1) else 0)
        return "ok"

    node.engine.hook = slow
    node.play(SyntheticSource(frames=2))
    assert [e.reason for e in node.events.of("caption.abort") if isinstance(e, CaptionAbort)] == [
        "deadline"
    ] * 3
    node.clock.advance(ms=2000)
    frame = SyntheticSource().frame(3)
    node.counters.frame_in()
    node.step(frame)
    node.step()
    assert {e.rid for e in node.events.of("caption.final")} == {"red", "green", "blue"}  # type: ignore[union-attr]


def test_an_engine_that_hangs_costs_its_batch_and_is_named() -> None:
    """Every request still ends once: from outside, a second after its deadline."""
    reached, go = threading.Event(), threading.Event()

    def hook(call: int, token: int) -> Step:
        if (call, token) == (0, 1):
            reached.set()
            assert go.wait(20)
        return "ok"

    config, clock, counters = NodeConfig(), ManualClock(S), NodeCounters()
    captioner = ThreadCaptioner(CaptionWriter(ScriptedEngine(hook=hook), config.caption, clock))
    pipeline = Pipeline(config, clock=clock, counters=counters)
    events: list[AnyEvent] = []
    runner = StepRunner(pipeline, captioner, limits=config.limits, clock=clock, emit=events.append)
    runner.start()
    source = SyntheticSource(frames=9)
    counters.frame_in()
    runner.step(source.frame(0))
    assert reached.wait(20)
    replies: list[AnyEvent] = []
    failed: list[Exception] = []
    asked = DescribeRequest(replies.append, failed.append, 3 * S, stream="cam0", rid="red")
    runner.submit(asked)
    clock.advance(ms=7000)
    runner.step()
    aborts = [e for e in events if isinstance(e, CaptionAbort)]
    assert [(e.rid, e.reason) for e in aborts] == [
        (rid, "deadline") for rid in ("red", "green", "blue")
    ]
    assert "DEADLINE" in str(failed[0])  # who waited for the captioner is answered, too
    clock.advance(ms=2000)
    assert "does not return" in runner.reasons()[0]
    go.set()
    while not runner.settle():
        pass
    counters.frame_in()
    runner.step(source.frame(1))
    while not runner.settle():
        pass
    assert runner.reasons() == []
    runner.close("source_end")
    assert [event_kind(e) for e in events].count("caption.final") == 3
    assert not imbalances(counters.balance().counters(), events)


def test_an_engine_that_hangs_at_the_end_has_its_rows_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The counters balance although nobody knows whether the engine will ever return."""
    monkeypatch.setattr(captioner_module, "_JOIN_S", 0.1)
    reached, go = threading.Event(), threading.Event()

    def hook(call: int, token: int) -> Step:
        reached.set()
        assert go.wait(20)
        return "ok"

    config, clock, counters = NodeConfig(), ManualClock(S), NodeCounters()
    captioner = ThreadCaptioner(CaptionWriter(ScriptedEngine(hook=hook), config.caption, clock))
    pipeline = Pipeline(config, clock=clock, counters=counters)
    events: list[AnyEvent] = []
    runner = StepRunner(pipeline, captioner, limits=config.limits, clock=clock, emit=events.append)
    runner.start()
    counters.frame_in()
    runner.step(SyntheticSource(frames=1).frame(0))
    assert reached.wait(20)
    runner.close("shutdown")
    captioner.close()  # again, as a node does: it does not wait again
    try:
        aborts = [e for e in events if isinstance(e, CaptionAbort)]
        assert [(e.rid, e.reason) for e in aborts] == [
            (rid, "shutdown") for rid in ("red", "green", "blue")
        ]
        assert not imbalances(counters.balance().counters(), events)
        assert running() == ["ureca-caption"]
    finally:
        go.set()
