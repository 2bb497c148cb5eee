"""Texts to regions in the pipeline: finds, prompts and standing texts, with the scripted engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.node.conftest import SESSION_ID, Replay
from tests.node.test_orders import command
from ureca.config import from_plain
from ureca.datatypes import Frame, TextPrompt
from ureca.errors import RequestError, UrecaError
from ureca.models.runtime.grounding import PLAIN_WEIGHTS, Grounder
from ureca.node.captioning.batch_captioner import CaptionWriter, InlineCaptioner
from ureca.node.captioning.grounding import TextGrounder
from ureca.node.config import NodeConfig
from ureca.node.pipeline.pipeline import Pipeline
from ureca.node.pipeline.step import FindRequest
from ureca.node.pipeline.step_runner import StepRunner
from ureca.node.sources.prompt_file import Prompts
from ureca.protocol.events import TextAbsent, TextFound
from ureca.protocol.requests import FindArgs
from ureca.testing import SyntheticSource

S = 1_000_000_000
SOURCE = SyntheticSource(frames=400, things=3)
LONELY = SyntheticSource(frames=400, things=3, with_regions="never")


class Grounded(Replay):
    """A node as a function that can ground texts."""

    def __init__(
        self, config: NodeConfig | None = None, prompts: Prompts | None = None, **plain: Any
    ) -> None:
        super().__init__(config or from_plain(NodeConfig, plain), prompts=prompts)
        grounder = Grounder(self.engine, PLAIN_WEIGHTS)
        writer = CaptionWriter(self.engine, self.config.caption, self.clock)
        self.pipeline = Pipeline(
            self.config, clock=self.clock, counters=self.counters, prompts=prompts
        )
        self.runner = StepRunner(
            self.pipeline,
            InlineCaptioner(writer, TextGrounder(self.engine, grounder, self.clock)),
            limits=self.config.limits,
            clock=self.clock,
            emit=self.events,
        )
        self.runner.start()

    def ask(self, deadline_s: float = 5.0, key: bytes = b"1", **args: Any) -> list[Any]:
        """Submit a `find`; what it was answered with is in the list in the end."""
        answers: list[Any] = []
        limit_ns = self.clock.now_ns() + int(deadline_s * 1e9)
        self.runner.submit(
            FindRequest(
                FindArgs(**args), answers.append, answers.append, limit_ns, key=(b"me", key)
            )
        )
        return answers

    def find(self, text: str, **args: Any) -> dict[str, Any]:
        answers = self.ask(text=text, **args)
        for _ in range(6):
            self.step()
        (answer,) = answers
        if isinstance(answer, UrecaError):
            raise answer
        return answer

    def found(self) -> list[tuple[str, list[str]]]:
        told = self.events.of("text.found")
        return [(e.text, [r.rid for r in e.regions]) for e in told if isinstance(e, TextFound)]

    def absent(self) -> list[str]:
        return [e.text for e in self.events.of("text.absent") if isinstance(e, TextAbsent)]


def playing(frames: int = 3, source: SyntheticSource = SOURCE, **more: Any) -> Grounded:
    node = Grounded(**more)
    node.play(replace(source, frames=frames))
    return node


def test_a_text_finds_its_region_and_nothing_is_not_there() -> None:
    node = playing()
    found = node.find("a red thing")
    assert (found["by"], [r["rid"] for r in found["regions"]]) == ("likelihood", ["red"])
    (red,) = found["regions"]
    assert tuple(red["box"]) == SOURCE.boxes_xyxy_px(2)["red"]
    assert (red["seq"], red["stream"]) == (2, "cam0")
    assert red["probability"] > 0.9
    assert found["none"] < 0.1
    assert "mask" not in red
    assert node.find("a red thing", masks=True)["regions"][0]["mask"]["size"] == [120, 160]
    nothing = node.find("a purple mug")
    assert nothing["regions"] == []
    assert nothing["none"] > 0.9
    assert {r["rid"] for r in node.find("things", limit=2)["regions"]} < {"red", "green", "blue"}
    counters = node.counters.balance().counters()
    assert (counters["text_found"], counters["text_absent"]) == (3, 1)


def test_with_neither_segmenter_nor_regions_it_is_refused_with_the_remedy() -> None:
    node = playing(source=LONELY)
    with pytest.raises(RequestError, match=r"NO_MODEL.*segmenter\.yaml"):
        node.find("a red thing")
    with pytest.raises(RequestError, match=r"NO_MODEL.*segmenter\.yaml"):
        command(node.runner, node.clock.now_ns(), "region.add", stream="cam0", text="red")
    with pytest.raises(RequestError, match=r"NO_MODEL.*where=tracks"):
        node.find("a red thing", where="frame")
    with pytest.raises(RequestError, match="NO_STREAM"):
        node.find("a red thing", stream="cam9")


def test_a_sender_that_sees_nothing_is_an_answer() -> None:
    node = Grounded()
    node.play([replace(SOURCE.frame(0), regions=())])
    assert node.find("a red thing") == {"by": "likelihood", "regions": [], "none": 1.0}
    assert node.engine.encoded == 0


def test_all_streams_are_asked_and_one_without_regions_is_passed_over() -> None:
    node = Grounded()
    node.play([SOURCE.frame(0), replace(LONELY.frame(0), stream="cam1")])
    other = SyntheticSource(things=2, stream="cam2", seed=3)
    node.play([other.frame(0)])
    found = node.find("red")
    assert {(r["stream"], r["rid"]) for r in found["regions"]} == {("cam0", "red"), ("cam2", "red")}
    assert len(node.find("red", stream="cam2")["regions"]) == 1


def test_a_text_prompt_names_what_is_followed_and_says_when_it_is_absent() -> None:
    node = Grounded()
    texts = (TextPrompt("the green thing", label="mine"), TextPrompt("a purple mug"))
    node.play([replace(SOURCE.frame(0), texts=texts), *(SOURCE.frame(n) for n in range(1, 12))])
    assert node.found() == [("the green thing", ["green"])]
    assert node.absent() == ["a purple mug"]
    labels = {track.rid: track.label for track in node.pipeline.views()["cam0"][1].tracks}
    assert labels == {"red": "red", "green": "mine", "blue": "blue"}


def test_a_standing_text_is_asked_until_it_is_found_and_again_when_it_is_gone() -> None:
    node = Grounded(grounding={"texts": ["a blue thing"]}, tracker={"lost_ttl_s": 0.2})
    two = replace(SOURCE, things=2)
    node.play(two.frame(seq) for seq in range(40))
    assert node.found() == []
    assert 1 <= len(node.absent()) <= 2  # at most one a second
    node.play(SOURCE.frame(seq) for seq in range(40, 50))
    assert node.found() == [("a blue thing", ["blue"])]
    asked = node.counters.balance().texts_in
    node.play(SOURCE.frame(seq) for seq in range(50, 80))
    assert node.counters.balance().texts_in == asked  # found: it is asked no more
    node.play(two.frame(seq) for seq in range(80, 100))
    node.play(SOURCE.frame(seq) for seq in range(100, 110))
    assert node.found()[1:] == [("a blue thing", ["blue-2"])]


def test_a_standing_text_needs_a_sure_answer() -> None:
    """The scripted engine is at most .982 sure."""
    sure = Grounded(grounding={"texts": ["a red thing"], "min_standing": 0.99})
    sure.play(replace(SOURCE, frames=8))
    assert (sure.found(), sure.absent()) == ([], ["a red thing"])
    assert [r["rid"] for r in sure.find("a red thing")["regions"]] == ["red"]  # once is enough
    less = Grounded(grounding={"texts": ["a red thing"], "min_standing": 0.98})
    less.play(replace(SOURCE, frames=8))
    assert less.found() == [("a red thing", ["red"])]


def test_region_add_with_a_text() -> None:
    node = playing()
    answers: list[Any] = []
    one = {"stream": "cam0", "text": "a red thing", "policy": {"ttl_ms": 700}}
    added = asked(node, one, answers)
    assert (added["rid"], added["policy"]["ttl_ms"]) == ("red", 700)
    assert [r["rid"] for r in added["regions"]] == ["red"]
    none = asked(node, {"stream": "cam0", "text": "a purple mug"}, answers)
    assert (none["rid"], none["regions"]) == ("", [])
    assert none["none"] > 0.9
    assert node.absent() == ["a purple mug"]
    standing = {"stream": "cam0", "text": "a pink mug", "standing": True}
    assert asked(node, standing, answers) == {"seq": 2, "standing": True}


def asked(node: Grounded, args: dict[str, Any], answers: list[Any]) -> dict[str, Any]:
    """The result of a `region.add` that may be answered later."""
    import msgspec

    from ureca.node.pipeline.step import RegionCommand
    from ureca.protocol.operations import OPERATIONS

    typed = msgspec.convert(args, OPERATIONS["region.add"].args)
    limit_ns = node.clock.now_ns() + 5 * S
    node.runner.submit(RegionCommand(typed, b"me", answers.append, answers.append, limit_ns, b"id"))
    for _ in range(6):
        node.step()
    return answers[-1]


def test_cancel_and_deadline_and_the_end_answer_what_waits() -> None:
    node = Grounded(segmenter={"model": "scripted"})  # nobody cuts: the finds wait for masks
    node.play([SOURCE.frame(0)])
    cancelled, late, gone = (
        node.ask(text="red", key=key, deadline_s=limit_s)
        for key, limit_s in ((b"1", 9), (b"2", 1), (b"3", 99))
    )
    node.step()
    assert [*cancelled, *late, *gone] == []
    now_ns = node.clock.now_ns()
    assert command(node.runner, now_ns, "cancel", id=b"1")["cancelled"]
    assert not command(node.runner, now_ns, "cancel", id=b"1")["cancelled"]
    node.clock.advance(ns=2 * S)
    node.step()
    node.close()
    told = [(one.code, len(answers)) for answers in (cancelled, late, gone) for one in answers]
    assert told == [("GONE", 1), ("DEADLINE", 1), ("GONE", 1)]


def test_too_many_finds_are_busy_and_too_many_texts_are_refused() -> None:
    node = Grounded(segmenter={"model": "scripted"}, limits={"max_finds": 2, "max_texts": 1})
    node.play([SOURCE.frame(0)])
    for _ in range(2):
        node.ask(text="red")
        node.step()
    with pytest.raises(RequestError, match="BUSY"):
        node.ask(text="red")
    texts = (TextPrompt("a mug", standing=True), TextPrompt("a cup", standing=True))
    node.play([replace(SOURCE.frame(1), texts=texts)])
    node.play([replace(SOURCE.frame(2), texts=texts[:1])])  # it stands already
    (refused,) = node.events.of("caption.error")
    assert "max_texts" in refused.msg  # type: ignore[union-attr]


def test_without_weights_texts_are_refused_and_say_so() -> None:
    node = Replay()
    node.play([replace(SOURCE.frame(0), texts=(TextPrompt("a mug"),))])
    (refused,) = node.events.of("caption.error")
    assert "grounding" in refused.msg  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="NO_MODEL"):
        command(node.runner, node.clock.now_ns(), "region.add", stream="cam0", text="red")


def test_a_failing_engine_is_told_and_standing_texts_are_asked_again() -> None:
    node = Grounded(grounding={"texts": ["a red thing"]})
    node.engine.score, score = failing, node.engine.score  # type: ignore[method-assign]
    node.play(replace(SOURCE, frames=4))
    with pytest.raises(RequestError, match=r"ENGINE.*out of order"):
        node.find("a red thing")
    assert node.found() == []
    node.engine.score = score  # type: ignore[method-assign]
    node.play(SOURCE.frame(seq) for seq in range(4, 16))
    assert node.found() == [("a red thing", ["red"])]


def failing(*_: object, **__: object) -> Any:
    raise RuntimeError("out of order")


def frame_of(source: SyntheticSource, seq: int) -> Frame:
    return replace(source.frame(seq), session_id=SESSION_ID)
