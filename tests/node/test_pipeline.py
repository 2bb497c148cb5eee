from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.conftest import Replay
from ureca.datatypes import Refusal, RegionSeed
from ureca.errors import RequestError, UrecaError
from ureca.node.config import CaptionConfig, NodeConfig, SchedulerConfig
from ureca.node.pipeline.step import DescribeRequest
from ureca.protocol import rle
from ureca.protocol.event_table import TERMINALS, event_kind
from ureca.protocol.events import AnyEvent, CaptionError, CaptionFinal, RegionEvent
from ureca.testing import ScriptedEngine, Step, SyntheticSource


def story(events: list[AnyEvent]) -> list[str]:
    """Events as readable lines: what the golden comparison is about."""
    lines = []
    for event in events:
        kind = event_kind(event)
        if isinstance(event, RegionEvent) and kind not in ("track.update", "caption.delta"):
            text = (
                f" {event.text} #{event.rev} {event.trigger}"
                if isinstance(event, CaptionFinal)
                else ""
            )
            lines.append(f"{event.rid} {kind}{text}")
    return lines


def test_replay_tells_the_golden_story() -> None:
    node = Replay()
    node.play(SyntheticSource(frames=45, things=2))
    node.close()
    assert story(node.events.events) == [
        "red track.new",
        "green track.new",
        "red caption.start",
        "green caption.start",
        "red caption.final a red thing #1 new",
        "green caption.final a green thing #1 new",
        "red track.end",
        "green track.end",
    ]
    assert node.counters.balance().closed


def test_replay_is_deterministic() -> None:
    runs = []
    for _ in range(2):
        node = Replay()
        node.play(SyntheticSource(frames=8, with_regions="first"))
        node.close()
        runs.append(msgspec.msgpack.encode(node.events.events))
    assert runs[0] == runs[1]


def test_all_regions_of_a_frame_are_captioned_in_one_batch() -> None:
    node = Replay()
    node.play(SyntheticSource(frames=1, things=6))
    assert node.engine.batches == [6]
    assert node.engine.encoded == 1


def test_a_final_says_where_it_came_from() -> None:
    node = Replay()
    (final, *_) = node.play(SyntheticSource(frames=1)).of("caption.final")
    assert isinstance(final, CaptionFinal)
    assert final.src_seqs == (0,)
    assert final.captured_ns == 1_000_000_000
    assert final.capture_source == "driver"
    assert final.mask is not None
    assert final.mask.size == (120, 160)
    assert {
        "link",
        "track",
        "wait",
        "prep",
        "vit",
        "prefill",
        "ttft",
        "gen",
    } <= final.stage_us.keys()
    assert final.batch == {"n": 3, "pos": 0}


def test_a_failing_engine_ends_every_request_with_an_error_and_the_node_lives_on() -> None:
    def fails_first(call: int, token: int) -> Step:
        return "raise" if call == 0 and token == 1 else "ok"

    node = Replay(engine=ScriptedEngine(hook=fails_first))
    node.play(SyntheticSource(frames=60))
    errors = node.events.of("caption.error")
    assert len(errors) == 3
    assert all(isinstance(e, CaptionError) and e.code == "ENGINE" for e in errors)
    assert len(node.events.of("caption.final")) >= 3
    node.close()
    assert node.counters.balance().closed


@pytest.mark.parametrize(
    ("hook", "config"),
    [
        (lambda call, token: "non_finite", CaptionConfig()),
        (lambda call, token: "ok", CaptionConfig(min_score=0.9)),
        (lambda call, token: "ok", CaptionConfig(max_chars=3)),
    ],
)
def test_bad_output_is_an_error_and_never_text(hook: object, config: CaptionConfig) -> None:
    node = Replay(replace(NodeConfig(), caption=config), ScriptedEngine(hook=hook))  # type: ignore[arg-type]
    events = node.play(SyntheticSource(frames=1))
    assert not events.of("caption.final")
    assert {e.code for e in events.of("caption.error")} == {"BAD_OUTPUT"}  # type: ignore[union-attr]


def test_a_cut_caption_says_that_it_is_cut() -> None:
    node = Replay(replace(NodeConfig(), caption=CaptionConfig(max_new_tokens=2)))
    finals = node.play(SyntheticSource(frames=1)).of("caption.final")
    assert {(f.status, f.text) for f in finals} >= {("truncated", "a red")}  # type: ignore[union-attr]


def test_prompts_start_regions_at_their_frame() -> None:
    prompts = {2: (RegionSeed(rid="late", box_xyxy_px=(20, 20, 60, 60), label="box"),)}
    node = Replay(prompts=prompts)
    events = node.play(SyntheticSource(frames=4, with_regions="never"))
    (born,) = events.of("track.new")
    assert (born.rid, born.seq, born.label) == ("late", 2, "box")  # type: ignore[union-attr]


def answers(node: Replay, **fields: object) -> tuple[list[AnyEvent], list[UrecaError]]:
    said: list[AnyEvent] = []
    failed: list[UrecaError] = []
    deadline_ns = node.clock.now_ns() + 1_000_000_000
    request = DescribeRequest(said.append, failed.append, deadline_ns, **fields)  # type: ignore[arg-type]
    node.runner.submit(request)
    return said, failed


def test_a_direct_request_is_answered_to_the_asker_alone() -> None:
    node = Replay()
    node.play(SyntheticSource(frames=2))
    said, failed = answers(node, stream="cam0", rid="blue", style="long")
    events = node.step()
    assert not failed
    assert [event_kind(e) for e in said][-1] == "caption.final"
    assert said[-1].text.startswith("a blue thing at the")  # type: ignore[union-attr]
    assert not [e for e in events if event_kind(e) in TERMINALS]
    node.step()  # takes in that it has ended
    assert node.counters.balance().closed


def test_direct_requests_that_cannot_be_answered_say_why() -> None:
    node = Replay()
    node.play(SyntheticSource(frames=2))
    said, failed = answers(node, stream="cam0", rid="nobody")
    node.step()
    assert not said
    assert failed[0].code == "NOT_FOUND"  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="NO_STREAM"):
        answers(node, stream="cam9", rid="red")
    for _ in range(node.config.limits.max_asks):
        answers(node, stream="cam0", rid="red")
    with pytest.raises(RequestError, match="BUSY"):
        answers(node, stream="cam0", rid="red")
    node.clock.advance(ms=2000)
    node.step()
    node.close()
    assert node.counters.balance().closed


@given(
    things=st.integers(0, 5),
    failing=st.sets(st.integers(0, 30), max_size=6),
    hidden=st.sets(st.integers(0, 19), max_size=10),
    max_batch=st.integers(1, 4),
)
def test_every_request_gets_exactly_one_terminal_and_the_books_balance(
    things: int, failing: set[int], hidden: set[int], max_batch: int
) -> None:
    def hook(call: int, token: int) -> Step:
        return "raise" if call in failing and token == 1 else "ok"

    plan = SchedulerConfig(max_batch=max_batch, refresh_s=0.2, min_interval_s=0.1)
    node = Replay(replace(NodeConfig(), scheduler=plan), ScriptedEngine(hook=hook))
    source = SyntheticSource(frames=20, things=things, width_px=64, height_px=48)
    node.play(replace(f, regions=()) if f.seq in hidden else f for f in source)
    node.close()
    started = Counter(e.request_id for e in node.events.of("caption.start"))  # type: ignore[union-attr]
    terminals = node.events.terminals()
    assert set(started) <= set(terminals)
    assert all(len(kinds) == 1 for kinds in terminals.values())
    balance = node.counters.balance()
    assert balance.closed
    assert balance.requests_in == len(terminals)


def test_a_bad_region_ends_in_one_error_and_the_others_are_captioned() -> None:
    """Refused by the wire or by the tracker: told once a second, counted always."""
    node = Replay()
    small = rle.encode(np.ones((4, 4), np.bool_))
    for frame in SyntheticSource(frames=40, things=2):
        seeds = (*(frame.regions or ()), RegionSeed(rid="small", mask=small))
        node.play([replace(frame, regions=seeds, refused=(Refusal(None, "broken on the wire"),))])
    errors = node.events.of("caption.error")
    assert [(e.rid, e.code) for e in errors] == [("_", "BAD_SCHEMA"), ("small", "BAD_SCHEMA")] * 2  # type: ignore[union-attr]
    assert {e.rid for e in node.events.of("caption.final")} == {"red", "green"}  # type: ignore[union-attr]
    node.close()
    balance = node.counters.balance()
    assert balance.regions_refused == 80
    assert balance.requests_ended["error"] == len(errors)
    assert balance.closed


def test_a_live_region_whose_mask_turns_bad_is_lost_for_that_reason() -> None:
    node = Replay()
    for frame in SyntheticSource(frames=4, things=2):
        broken = frame.seq in (1, 2)
        seeds = tuple(s for s in frame.regions or () if s.rid == "red" or not broken)
        refused = (Refusal("green", "cut off"),) if broken else ()
        node.play([replace(frame, regions=seeds, refused=refused)])
    (lost,) = node.events.of("track.lost")
    assert (lost.rid, lost.reason) == ("green", "bad_region")  # type: ignore[union-attr]
    assert [e.rid for e in node.events.of("track.recovered")] == ["green"]  # type: ignore[union-attr]
