"""What an engine does to a node: numbers that are not finite, errors, and not coming back."""

from __future__ import annotations

import threading

import pytest

from tests.node.conftest import Replay
from ureca.clock import ManualClock
from ureca.invariants import imbalances
from ureca.native_threads import running
from ureca.node.captioning import captioner as captioner_module
from ureca.node.captioning.captioner import CaptionWriter, ThreadCaptioner
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.request_queue import Ask
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
    assert node.books.balance().requests_ended["error"] == 3


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
    node.books.frame_in()
    node.events(node.pipeline.step(frame, node.clock.now_ns()))
    node.events(node.pipeline.tick(node.clock.now_ns()))
    assert {e.rid for e in node.events.of("caption.final")} == {"red", "green", "blue"}  # type: ignore[union-attr]


def test_an_engine_that_hangs_costs_its_batch_and_is_named() -> None:
    """Every request still ends once: from outside, a second after its deadline."""
    reached, go = threading.Event(), threading.Event()

    def hook(call: int, token: int) -> Step:
        if (call, token) == (0, 1):
            reached.set()
            assert go.wait(20)
        return "ok"

    config, clock, books = NodeConfig(), ManualClock(S), NodeCounters()
    captioner = ThreadCaptioner(CaptionWriter(ScriptedEngine(hook=hook), config.caption, clock))
    pipeline = Pipeline(config, captioner, clock=clock, books=books)
    source = SyntheticSource(frames=9)
    books.frame_in()
    events = pipeline.step(source.frame(0), S)
    assert reached.wait(20)
    replies: list[AnyEvent] = []
    failed: list[Exception] = []
    pipeline.ask(Ask(replies.append, failed.append, 3 * S, stream="cam0", rid="red"))
    clock.advance(ms=7000)
    events += pipeline.tick(clock.now_ns())
    aborts = [e for e in events if isinstance(e, CaptionAbort)]
    assert [(e.rid, e.reason) for e in aborts] == [
        (rid, "deadline") for rid in ("red", "green", "blue")
    ]
    assert "DEADLINE" in str(failed[0])  # who waited for the captioner is answered, too
    clock.advance(ms=2000)
    assert "does not return" in pipeline.reasons()[0]
    go.set()
    while not pipeline.settle():
        pass
    books.frame_in()
    events += pipeline.step(source.frame(1), clock.now_ns())
    while not pipeline.settle():
        pass
    assert pipeline.reasons() == []
    events += pipeline.close("source_end", clock.now_ns())
    assert [event_kind(e) for e in events].count("caption.final") == 3
    assert not imbalances(books.balance().counters(), events)


def test_an_engine_that_hangs_at_the_end_has_its_rows_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The books balance although nobody knows whether the engine will ever return."""
    monkeypatch.setattr(captioner_module, "_JOIN_S", 0.1)
    reached, go = threading.Event(), threading.Event()

    def hook(call: int, token: int) -> Step:
        reached.set()
        assert go.wait(20)
        return "ok"

    config, clock, books = NodeConfig(), ManualClock(S), NodeCounters()
    captioner = ThreadCaptioner(CaptionWriter(ScriptedEngine(hook=hook), config.caption, clock))
    pipeline = Pipeline(config, captioner, clock=clock, books=books)
    books.frame_in()
    events = pipeline.step(SyntheticSource(frames=1).frame(0), S)
    assert reached.wait(20)
    events += pipeline.close("shutdown", clock.now_ns())
    captioner.close()  # again, as a node does: it does not wait again
    try:
        aborts = [e for e in events if isinstance(e, CaptionAbort)]
        assert [(e.rid, e.reason) for e in aborts] == [
            (rid, "shutdown") for rid in ("red", "green", "blue")
        ]
        assert not imbalances(books.balance().counters(), events)
        assert running() == ["ureca-caption"]
    finally:
        go.set()
