"""Requests that change regions, between two frames."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.node.conftest import Replay, Scene
from ureca.clock import ManualClock
from ureca.datatypes import RegionSeed
from ureca.errors import RequestError, UrecaError
from ureca.invariants import imbalances
from ureca.node.captioning.batch_captioner import CaptionWriter, ThreadCaptioner
from ureca.node.config import LimitsConfig, NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step import DescribeRequest, RegionCommand, StepInput
from ureca.node.pipeline.step_runner import StepRunner
from ureca.protocol import rle
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import AnyEvent, CaptionAbort, CaptionFinal
from ureca.protocol.operations import OPERATIONS
from ureca.testing import ScriptedEngine, Step, SyntheticSource

S = 1_000_000_000
SOURCE = SyntheticSource(frames=400, things=3, with_regions="first")
LONELY = SyntheticSource(frames=400, things=3, with_regions="never")


def command(
    runner: StepRunner, now_ns: int, op: str, *, client: bytes = b"me", **args: Any
) -> dict[str, Any]:
    """The result of a region command, run in a step of its own; raises what it was answered
    with.
    """
    said: list[dict[str, Any]] = []
    failed: list[UrecaError] = []
    typed = msgspec.convert(args, OPERATIONS[op].args, builtin_types=(bytes,))
    runner.submit(RegionCommand(typed, client, said.append, failed.append, now_ns + S))
    runner.step()
    assert len(said) + len(failed) == 1
    if failed:
        raise failed[0]
    return said[0]


def told(node: Replay, op: str, **args: Any) -> dict[str, Any]:
    return command(node.runner, node.clock.now_ns(), op, **args)


def started(source: SyntheticSource = SOURCE, frames: int = 3) -> Replay:
    node = Replay()
    node.play(replace(source, frames=frames))
    return node


def texts(node: Replay, rid: str) -> list[tuple[str, str]]:
    found = node.events.of("caption.final")
    return [(f.text, f.trigger) for f in found if isinstance(f, CaptionFinal) and f.rid == rid]


def test_a_region_is_added_moved_and_removed_between_frames() -> None:
    node = Replay()
    scene = Scene()
    node.play(scene.frame(seq) for seq in range(2))
    box = [scene.x(1) - 16, 44, scene.x(1) + 16, 76]
    added = told(
        node, "region.add", stream="cam0", region={"rid": "disc", "box": box, "label": "d"}
    )
    assert (added["rid"], added["seq"]) == ("disc", 1)
    node.play(scene.frame(seq) for seq in range(2, 6))
    (listed,) = told(node, "region.list", stream="cam0")["regions"]
    assert (listed["rid"], listed["state"], listed["label"]) == ("disc", "alive", "d")
    mask = rle.encode(scene.mask(5))
    place = {"mask": {"size": list(mask.size), "counts": mask.counts}}
    told(node, "region.update", stream="cam0", rid="disc", region=place)
    (moved,) = told(node, "region.list", stream="cam0")["regions"]
    assert tuple(moved["box"]) == (scene.x(5) - 13, 47, scene.x(5) + 14, 74)
    told(node, "region.remove", stream="cam0", rid="disc")
    node.play(scene.frame(seq) for seq in range(6, 8))
    kinds = [k for k in node.events.kinds() if k in ("track.new", "caption.final", "track.end")]
    assert kinds == ["track.new", "caption.final", "track.end"]
    assert [e.reason for e in node.events.of("track.end")] == ["removed"]  # type: ignore[union-attr]
    assert told(node, "region.list", stream="cam0") == {"regions": []}


@pytest.mark.parametrize(
    ("op", "args", "code"),
    [
        ("region.list", {"stream": "cam9"}, "NO_STREAM"),
        ("region.remove", {"stream": "cam0", "rid": "nobody"}, "NOT_FOUND"),
        ("policy.set", {"stream": "cam0", "rid": "nobody", "policy": {}}, "NOT_FOUND"),
        ("region.remove", {"stream": "cam0", "rid": "red"}, "FORBIDDEN"),
        (
            "region.update",
            {"stream": "cam0", "rid": "red", "region": {"point": [1, 1]}},
            "FORBIDDEN",
        ),
        ("policy.set", {"stream": "cam0", "policy": {"min_interval_ms": 9000}}, "BAD_SCHEMA"),
        (
            "region.add",
            {"stream": "cam0", "region": {"point": [5, 5]}, "policy": {"min_interval_ms": 9000}},
            "BAD_SCHEMA",
        ),
    ],
)
def test_an_order_that_cannot_be_carried_out_says_why_and_changes_nothing(
    op: str, args: dict[str, Any], code: str
) -> None:
    node = started()
    before = told(node, "region.list", stream="cam0")
    with pytest.raises(RequestError) as caught:
        told(node, op, **args)
    assert caught.value.code == code
    assert told(node, "region.list", stream="cam0") == before


def test_bad_places_and_one_region_too_many_are_refused() -> None:
    node = Replay(replace(NodeConfig(), limits=LimitsConfig(max_regions=1)))
    node.play(replace(LONELY, frames=1))
    with pytest.raises(UrecaError, match="outside"):
        told(node, "region.add", stream="cam0", region={"box": [500, 500, 510, 510]})
    told(node, "region.add", stream="cam0", region={"box": [5, 5, 50, 50]})
    with pytest.raises(RequestError, match="LIMIT"):
        told(node, "region.add", stream="cam0", region={"box": [5, 5, 50, 50]})


def test_orders_beyond_the_queue_are_busy_and_late_ones_fail() -> None:
    node = Replay(replace(NodeConfig(), limits=LimitsConfig(max_orders=1)))
    node.play(replace(SOURCE, frames=1))
    failed: list[UrecaError] = []
    late = RegionCommand(
        msgspec.convert({"stream": "cam0"}, OPERATIONS["region.list"].args),
        b"me",
        print,
        failed.append,
        0,
    )
    node.runner.submit(late)
    with pytest.raises(RequestError, match="BUSY"):
        node.runner.submit(late)
    node.step()
    node.runner.submit(late)
    node.close()
    assert [error.code for error in failed] == ["DEADLINE", "GONE"]  # type: ignore[attr-defined]


def test_a_policy_holds_for_its_region_and_null_takes_it_back() -> None:
    node = started()
    told(node, "policy.set", stream="cam0", policy={"ttl_ms": 2000, "max_interval_ms": 2000})
    own = {"ttl_ms": 900, "triggers": ["new"], "max_new_tokens": 2}
    assert told(node, "policy.set", stream="cam0", rid="red", policy=own)["policy"] == {
        "ttl_ms": 900,
        "min_interval_ms": 1000,
        "max_interval_ms": 2000,
        "triggers": ["new"],
        "max_new_tokens": 2,
        "style": "short",
        "min_confidence": 0.4,
    }
    node.play(SOURCE.frame(seq) for seq in range(3, 120))
    later = node.events.of("caption.final", "caption.same")[3:]
    assert {e.rid for e in later} == {"green", "blue"}  # type: ignore[union-attr]
    assert {e.ttl_ms for e in later} == {2000}  # type: ignore[union-attr]
    back = told(node, "policy.set", stream="cam0", rid="red", policy={"ttl_ms": None})
    assert back["policy"]["ttl_ms"] == 2000


def test_the_policy_of_a_region_that_ended_binds_nobody() -> None:
    """Its shortest interval must not stand in the way of the stream's longest one for ever."""
    node = started(LONELY, 1)
    region = {"rid": "slow", "box": list(LONELY.boxes_xyxy_px(0)["blue"])}
    own = {"min_interval_ms": 4000}
    told(node, "region.add", stream="cam0", region=region, policy=own)
    quick = {"stream": "cam0", "policy": {"max_interval_ms": 2000}}
    with pytest.raises(RequestError, match="BAD_SCHEMA"):
        told(node, "policy.set", **quick)
    told(node, "region.remove", stream="cam0", rid="slow")
    assert told(node, "policy.set", **quick)["policy"]["max_interval_ms"] == 2000


def test_captions_below_the_confidence_of_a_policy_are_unsure() -> None:
    node = Replay(engine=ScriptedEngine(confidence=0.5))
    node.play(replace(LONELY, frames=1))
    for rid, colour, own in (
        ("strict", "blue", {"min_confidence": 0.7}),
        ("lax", "red", {"min_confidence": 0.0}),
        ("usual", "green", {}),
    ):
        region = {"rid": rid, "box": list(LONELY.boxes_xyxy_px(0)[colour])}
        told(node, "region.add", stream="cam0", region=region, policy=own)
    node.step()
    unsure = {final.rid: final.unsure for final in node.events.of("caption.final")}  # type: ignore[union-attr]
    assert unsure == {"strict": True, "lax": False, "usual": False}
    with pytest.raises(msgspec.ValidationError, match="min_confidence"):
        told(node, "policy.set", stream="cam0", policy={"min_confidence": 1.5})


def test_max_tokens_of_a_policy_cut_the_caption() -> None:
    node = started(LONELY, 1)
    region = {"rid": "b", "box": list(LONELY.boxes_xyxy_px(0)["blue"])}
    told(node, "region.add", stream="cam0", region=region, policy={"max_new_tokens": 2})
    assert texts(node, "b") == [("a blue", "new")]


def test_a_region_that_is_asked_something_else_is_captioned_at_once() -> None:
    node = started()
    assert told(node, "prompt.set", stream="cam0", rid="blue", prompt="long") == {
        "prompt_id": "long"
    }
    (_, (text, trigger)) = texts(node, "blue")
    assert text.startswith("a blue thing at the")
    assert trigger == "request"
    assert len(texts(node, "red")) == 1


def test_prompts_in_a_frame_start_regions_that_are_carried_on() -> None:
    node = Replay()
    x0, y0, x1, y1 = LONELY.boxes_xyxy_px(0)["green"]
    seed = RegionSeed(point_xy_px=((x0 + x1) / 2, (y0 + y1) / 2), label="here")
    node.play([replace(LONELY.frame(0), prompts=(seed,)), LONELY.frame(1)])
    (born,) = node.events.of("track.new")
    assert (born.rid, born.label) == ("r1", "here")  # type: ignore[union-attr]
    assert texts(node, "r1") == [("a green thing", "new")]


class Held:
    """A pipeline whose caption thread stops before every word until it is let go."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.clock, self.counters = ManualClock(S), NodeCounters()
        self.engine = ScriptedEngine(hook=self._hook)
        config = NodeConfig()
        writer = CaptionWriter(self.engine, config.caption, self.clock)
        self.captioner = ThreadCaptioner(writer)
        self.events: list[AnyEvent] = []
        self.runner = StepRunner(
            Pipeline(config, clock=self.clock, counters=self.counters),
            self.captioner,
            limits=config.limits,
            clock=self.clock,
            emit=self.events.append,
        )
        self.runner.start()

    def _hook(self, call: int, token: int) -> Step:
        if token == 1:
            self.reached.set()
            assert self.go.wait(20)
        return "ok"

    def finish(self) -> list[AnyEvent]:
        self.go.set()
        while not self.runner.settle():
            pass
        self.runner.step()
        while not self.runner.settle():
            pass
        self.runner.close("source_end")
        assert not imbalances(self.counters.balance().counters(), self.events)
        return self.events


@pytest.fixture
def held() -> Held:
    made = Held()
    made.counters.frame_in()
    made.runner.step(SOURCE.frame(0))
    assert made.reached.wait(20)
    return made


def aborts(events: list[AnyEvent]) -> list[tuple[str, str]]:
    return [(e.rid, e.reason) for e in events if isinstance(e, CaptionAbort)]


def test_a_row_whose_prompt_changed_is_dropped_from_the_running_batch(held: Held) -> None:
    command(held.runner, S, "prompt.set", stream="cam0", rid="green", prompt="long")
    events = held.finish()
    assert aborts(events) == [("green", "prompt_changed")]
    said = [(e.rid, e.trigger) for e in events if isinstance(e, CaptionFinal)]
    assert said == [("red", "new"), ("blue", "new"), ("green", "request")]


def test_a_row_whose_track_died_is_dropped_from_the_running_batch(held: Held) -> None:
    there = SyntheticSource(frames=9, things=3)
    seeds = tuple(seed for seed in there.frame(1).regions or () if seed.rid != "red")
    held.counters.frame_in()
    held.runner.step(replace(there.frame(1), regions=seeds))
    events = held.finish()
    assert aborts(events) == [("red", "track_lost")]
    assert {e.rid for e in events if isinstance(e, CaptionFinal)} == {"green", "blue"}


def test_a_direct_request_is_cancelled_where_it_waits_and_where_it_is_written(held: Held) -> None:
    said: list[AnyEvent] = []
    failed: list[UrecaError] = []
    for name in (b"1", b"2"):
        held.runner.submit(
            DescribeRequest(
                said.append, failed.append, 9 * S, stream="cam0", rid="red", key=(b"me", name)
            )
        )
    assert not cancelled(held, b"1", client=b"other")
    assert cancelled(held, b"1")
    assert "cancelled" in str(failed[0])
    held.reached.clear()
    held.go.set()
    while not held.runner.settle():
        pass
    held.go.clear()
    held.runner.step()  # the second one is being written now
    assert held.reached.wait(20)
    assert cancelled(held, b"2")
    held.finish()
    assert [event_kind(e) for e in said][-1] == "caption.abort"
    assert len(failed) == 1


def test_a_step_lets_no_more_requests_wait_than_the_limit() -> None:
    node = Replay(NodeConfig(limits=LimitsConfig(max_asks=2)))
    node.play([SOURCE.frame(0)])
    failed: list[UrecaError] = []
    asks = tuple(
        DescribeRequest(lambda _: None, failed.append, 9 * S, stream="cam0", rid="red")
        for _ in range(3)
    )
    (busy,) = node.pipeline.step(StepInput(S, requests=asks)).replies
    assert busy.request is asks[2]
    assert isinstance(busy.result, RequestError)
    assert (busy.result.code, node.pipeline.describes_waiting) == ("BUSY", 2)
    with pytest.raises(RequestError, match="BUSY"):
        node.runner.submit(asks[2])  # whoever comes now is told at once
    node.step()
    assert node.pipeline.describes_waiting == 0


def cancelled(held: Held, name: bytes, client: bytes = b"me") -> bool:
    return bool(command(held.runner, S, "cancel", id=name, client=client)["cancelled"])
