"""What is published of a region: its last captions vote, parts take the words of their whole, and
words of sex and age are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.clock import ManualClock
from ureca.datatypes import Frame, RegionInput, RegionRequest, RowDelta, RowDone, Trigger
from ureca.node.captioning.batch import CaptionBatch
from ureca.node.captioning.batch_captioner import CaptionWriter
from ureca.node.captioning.person_words import neutralise
from ureca.node.config import CaptionConfig
from ureca.protocol.events import AnyEvent, CaptionDelta, CaptionFinal
from ureca.testing import ScriptedEngine, ScriptedFrame, never

WHOLE, PART = (8, 8, 56, 40), (10, 10, 20, 20)


class Says(ScriptedEngine):
    """Ends the rows of each batch, first to last, with the next given texts and scores."""

    def __init__(self, *looks: Sequence[tuple[str, float]]) -> None:
        super().__init__()
        self.looks = list(looks)

    def caption(
        self,
        frame: ScriptedFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        said = self.looks.pop(0)
        for row, (text, _) in enumerate(said):
            at = 0
            for word in text.split(" "):
                piece = f" {word}" if at else word
                yield RowDelta(row, at, piece)
                at += len(piece)
        for row, (text, score) in enumerate(said):
            yield RowDone(row, text, len(text.split()), "eos", score)


def play(
    engine: Says,
    *boxes: tuple[int, int, int, int],
    config: CaptionConfig | None = None,
    triggers: Sequence[Trigger] = (),
) -> list[list[AnyEvent]]:
    """The events of each look at regions with these boxes."""
    writer = CaptionWriter(engine, config or CaptionConfig(), ManualClock())
    looks = []
    for number in range(len(engine.looks)):
        trigger = triggers[number] if number < len(triggers) else Trigger.REFRESH
        requests = []
        for index, (x0, y0, x1, y1) in enumerate(boxes):
            mask = np.zeros((48, 64), np.bool_)
            mask[y0:y1, x0:x1] = True
            requests.append(
                RegionRequest(
                    request_id=100 * number + index,
                    stream="cam0",
                    rid=f"r{index}",
                    rev=number,
                    frame_seq=number,
                    mask=mask,
                    box_xyxy_px=(x0, y0, x1, y1),
                    trigger=trigger,
                    deadline_ns=10**12,
                )
            )
        image = np.zeros((48, 64, 3), np.uint8)
        frame = Frame("cam0", b"b" * 16, seq=number, captured_ns=number * 10**9, image=image)
        events: list[AnyEvent] = []
        writer.write(CaptionBatch(frame, tuple(requests)), events.append)
        looks.append(events)
    return looks


def texts(events: list[AnyEvent]) -> dict[str, str]:
    return {e.rid: e.text for e in events if isinstance(e, CaptionFinal)}


def said_of_one(engine: Says, **more: object) -> list[str]:
    return [texts(events)["r0"] for events in play(engine, WHOLE, **more)]  # type: ignore[arg-type]


def test_one_odd_look_changes_nothing() -> None:
    cup, vase = [("a red cup", 0.6)], [("a red vase", 0.8)]
    assert said_of_one(Says(cup, cup, vase, cup)) == ["a red cup"] * 4
    assert said_of_one(Says(cup, vase, vase)) == ["a red cup", "a red vase", "a red vase"]


def test_of_one_look_it_says_what_it_sees() -> None:
    cup, vase = [("a red cup", 0.9)], [("a red vase", 0.2)]
    said = said_of_one(Says(cup, vase), config=CaptionConfig(vote_looks=1))
    assert said == ["a red cup", "a red vase"]


def test_after_a_change_two_looks_outvote_the_earlier_ones() -> None:
    shut, wide = [("a closed drawer", 0.8)], [("an open drawer", 0.8)]
    refresh, change = Trigger.REFRESH, Trigger.CHANGE
    said = said_of_one(
        Says(shut, shut, shut, wide, wide), triggers=(refresh, refresh, refresh, change, change)
    )
    assert said[3:] == ["a closed drawer", "an open drawer"]


def test_the_score_is_one_of_the_text_that_is_said() -> None:
    looks = play(Says([("a cup", 0.9)], [("a vase", 0.3)]), WHOLE)
    assert [e.score for e in looks[1] if isinstance(e, CaptionFinal)] == [0.9]


@pytest.mark.parametrize("part_first", [True, False])
def test_a_part_takes_the_words_of_its_whole(part_first: bool) -> None:
    part, whole = ("the handle of a blue bowl", 0.5), ("a red mug", 0.9)
    said, boxes = ([part, whole], [PART, WHOLE]) if part_first else ([whole, part], [WHOLE, PART])
    assert set(texts(play(Says(said), *boxes)[0]).values()) == {
        "the handle of a red mug",
        "a red mug",
    }


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("a group of people", PART),
        ("a bowl of soup", PART),
        ("the handle of a blue bowl", (0, 0, 12, 12)),  # hardly inside
        ("the side of a blue bowl", (9, 9, 55, 38)),  # as large as the whole
        ("a blue handle", PART),
    ],
)
def test_what_is_no_part_keeps_its_words(text: str, box: tuple[int, int, int, int]) -> None:
    assert text in texts(play(Says([(text, 0.5), ("a red mug", 0.9)]), box, WHOLE)[0]).values()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_part_is_that_of_the_thing_it_names_not_of_a_smaller_one_before_it(
    order: tuple[int, ...],
) -> None:
    """A gripper holds the teapot's lid: both contain the lid, and the gripper is the smaller."""
    lid, gripper, teapot = (20, 12, 26, 18), (18, 10, 34, 22), WHOLE
    said = [("the lid of a blue teapot", 0.5), ("a robot gripper", 0.9), ("white teapots", 0.9)]
    boxes = (lid, gripper, teapot)
    events = play(Says([said[k] for k in order]), *(boxes[k] for k in order))[0]
    assert "the lid of white teapots" in texts(events).values()


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("the fingers of a robot gripper", "the fingers of a robot gripper"),
        ("the leg of a table", "the leg of a wooden table"),
    ],
)
def test_scenery_around_a_part_is_its_whole_only_by_name(part: str, told: str) -> None:
    said = [(part, 0.5), ("a wooden table", 0.9)]
    assert texts(play(Says(said), PART, WHOLE)[0])["r0"] == told


def test_a_part_of_a_part_takes_the_words_of_the_thing() -> None:
    said = [("the knob of a box", 0.5), ("the drawer of a desk", 0.5), ("a cabinet", 0.9)]
    found = texts(play(Says(said), (12, 12, 16, 16), (10, 10, 24, 24), WHOLE)[0])
    assert found["r0"] == "the knob of a cabinet"
    assert found["r1"] == "the drawer of a cabinet"


def test_parts_keep_their_words_where_that_is_configured() -> None:
    said = [("the handle of a blue bowl", 0.5), ("a red mug", 0.9)]
    config = CaptionConfig(parts_take_whole=False)
    assert texts(play(Says(said), PART, WHOLE, config=config)[0])["r0"].endswith("blue bowl")


def test_every_request_of_a_batch_ends_once() -> None:
    said = [("the handle of a bowl", 0.5), ("the lid of a pot", 0.5)]
    events = play(Says(said), PART, WHOLE)[0]
    assert len([e for e in events if isinstance(e, CaptionFinal)]) == 2


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("an old man in a red shirt", "a person in a red shirt"),
        ("two little girls", "two people"),
        ("a man and a woman", "two people"),
        ("a young asian woman's hair", "an asian person's hair"),
        ("a woman with her dog", "a person with their dog"),
        ("a group of young people", "a group of people"),
        ("a baby elephant", "a baby elephant"),
        ("an old car", "an old car"),
        ("a uniform", "a uniform"),
        ("the hood of an orange truck", "the hood of an orange truck"),
    ],
)
def test_sex_and_age_are_not_said(text: str, neutral: str) -> None:
    assert neutralise(text) == neutral
    assert said_of_one(Says([(text, 0.9)])) == [neutral]
    full = CaptionConfig(person_words="full")
    assert said_of_one(Says([(text, 0.9)]), config=full) == [text]


def test_words_that_are_replaced_are_not_streamed() -> None:
    events = play(Says([("a tall man in red", 0.9)]), WHOLE)[0]
    assert "".join(e.text for e in events if isinstance(e, CaptionDelta)) == "a tall"


@given(st.text(st.characters(max_codepoint=0x17F), max_size=80))
def test_any_text_is_neutral_after_one_pass(text: str) -> None:
    once = neutralise(text)
    assert neutralise(once) == once
