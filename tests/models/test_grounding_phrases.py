"""The closed grammar of requests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.models.runtime.grounding.geometry import Layout
from ureca.models.runtime.grounding.phrases import (
    asks_for_part,
    content_words,
    parse,
    split_conjunction,
)


@pytest.mark.parametrize(
    ("text", "head", "relation", "anchor"),
    [
        ("the cup left of the plate", "the cup", "left", "the plate"),
        ("a cup to the right of a blue plate", "a cup", "right", "a blue plate"),
        ("an apple in a bowl", "an apple", "in", "a bowl"),
        ("a man in a red shirt", "a man", "with", "a red shirt"),
        ("a girl holding a ball", "a girl", "with", "a ball"),
        ("a wall behind a table", "a wall", "behind", "a table"),
        ("a brown and white dog", "a brown and white dog", None, ""),
        ("a group of dogs", "a group of dogs", None, ""),
        ("the handle of a red mug", "the handle", "of", "a red mug"),
        ("the red mug's handle", "the handle", "of", "the red mug"),
        ("a tray on the right", "a tray", None, ""),
        ("a red ball and a blue cup", "a red ball", "and", "a blue cup"),
    ],
)
def test_a_relation_has_a_head_and_an_anchor(text, head, relation, anchor):
    phrase = parse(text)
    assert (phrase.head, phrase.relation, phrase.anchor) == (head, relation, anchor)


@pytest.mark.parametrize(
    ("texts", "scored"),
    [
        (("red mug", "the red mug", "a red mug", "my red mug"), "a red mug"),
        (("orange book", "the orange book"), "an orange book"),
        (
            ("the drawer's handle", "handle of the drawer", "the handle of a drawer"),
            "the handle of a drawer",
        ),
        (("a man's hat", "man's hat"), "a man's hat"),
        (("man riding a horse",), "a man riding a horse"),
        (("cup left of the plate", "the cup on a plate"), "a cup"),
        (("where is the red mug?", "find a red mug", "pick up the red mug"), "a red mug"),
        (("group of dogs", "a group of dogs"), "a group of dogs"),
        (("the blue jeans", "blue jeans"), "blue jeans"),
        (("dogs", "the dogs"), "dogs"),
        (("two bottles",), "two bottles"),
        (("the sky",), "the sky"),
        (("red",), "red"),
        (("handle", "the handle"), "the handle"),
        (("red shirt", "the red shirt"), "a red shirt"),
    ],
)
def test_a_text_is_scored_as_a_caption_says_it(texts, scored):
    assert {parse(text).scored for text in texts} == {scored}


@pytest.mark.parametrize(
    ("text", "scored", "extreme"),
    [
        ("the leftmost box", "a box", "left"),
        ("the largest red cup", "a red cup", "large"),
        ("the left cup", "a cup", "left"),
        ("left cup", "a cup", "left"),
        ("left hand", "a left hand", None),
        ("the left of the table", "the left of the table", None),
        ("the bottom drawer", "the bottom drawer", None),
        ("leftmost", "leftmost", None),
        ("an orange closest to the camera", "an orange", "front"),
        ("a metal wrench farthest away from the camera", "a metal wrench", "back"),
        ("the farthest cup", "a cup", "back"),
    ],
)
def test_a_superlative_is_left_to_geometry(text, scored, extreme):
    phrase = parse(text)
    assert (phrase.scored, phrase.extreme) == (scored, extreme)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("the handle of the mug", True),
        ("a lid", True),
        ("the cup and the drawer's handle", True),
        ("a red mug", False),
        ("a group of dogs", False),
        ("a cup on the table", False),
    ],
)
def test_a_text_may_ask_for_a_part(text, answer):
    assert asks_for_part(text) is answer


def test_something_of_some_look_is_scored_by_its_look_alone():
    for text in ("something red", "the red thing", "red object", "a red one"):
        phrase = parse(text)
        assert (phrase.is_generic, phrase.scored, phrase.looks) == (True, "red", ("red",))
    assert not parse("a red mug").is_generic
    assert not parse("one dog").is_generic


_WORDS = (
    *("the", "a", "of", "on", "in", "left", "right", "leftmost", "find", "where", "is", "'s"),
    *("mug", "handle", "red", "two", "and", "dog", "group", "people", "camera", "to", "?", ","),
)


@given(st.lists(st.sampled_from(_WORDS), max_size=8).map(" ".join) | st.text(max_size=30))
def test_any_text_can_be_read(text):
    phrase = parse(text)
    assert phrase.text == text
    assert phrase.scored or not text


def test_a_side_is_a_hint_and_stays_in_the_text():
    phrase = parse("a red tray on the left")
    assert (phrase.scored, phrase.side, phrase.extreme) == ("a red tray on the left", "left", None)
    assert parse("a cup on the left of a plate").side is None


@pytest.mark.parametrize(
    ("text", "count", "level"),
    [
        ("two bottles", 2, "group"),
        ("several dogs", 0, "group"),
        ("dogs", 0, "group"),
        ("a couple of people", 0, "group"),
        ("a dog", 1, None),
        ("a pair of jeans", 0, "part"),
        ("his jeans", 1, "part"),
        ("the mug's handle", 1, "part"),
        ("a glass", 1, None),
    ],
)
def test_counts_and_kinds_come_from_words(text, count, level):
    phrase = parse(text)
    assert (phrase.count, phrase.level) == (count, level)


def test_two_requests_in_one_text():
    assert split_conjunction("the cup and the plate") == ["the cup", "the plate"]
    assert split_conjunction("a cup and a pot and two cans") == ["a cup", "a pot", "two cans"]
    assert split_conjunction("a brown and black dog") == ["a brown and black dog"]
    assert split_conjunction("a man with a hat and a bag") == ["a man with a hat and a bag"]


def test_function_words_never_count():
    assert content_words("the handle of a red mug") == ["handle", "red", "mug"]
    assert content_words("of the") == ["of", "the"]


@pytest.fixture
def layout():
    """Left to right: a plate with a cup on it, a box, two dots in one mask."""
    masks = np.zeros((4, 60, 160), np.bool_)
    masks[0, 30:50, 5:45] = True
    masks[1, 35:45, 30:40] = True
    masks[2, 20:50, 70:100] = True
    masks[3, 10:20, 120:130] = masks[3, 40:50, 140:150] = True
    return Layout.of(list(masks))


def test_geometry_is_computed(layout):
    assert layout.nested.tolist() == [0, 1, 0, 0]
    assert layout.pieces.tolist() == [1, 1, 1, 2]
    assert layout.extreme("left").argmax() == 0
    assert layout.extreme("large").argmax() == 2
    left, held = layout.relation("left"), layout.relation("in")
    assert left[0, 2] > -0.2 > left[2, 0]
    assert held[1, 0] > -0.2 > held[2, 0]
    assert (np.diag(left) < -20).all()


def test_a_part_lies_in_its_owner_and_a_group_holds_its_members(layout):
    part, both = layout.relation("of"), layout.relation("and")
    assert part[1, 0] > -0.2 > part[0, 1]  # the cup of the plate
    assert both[0, 1] > -0.2 > both[1, 0]


def test_a_tiny_region_keeps_a_pixel():
    mask = np.zeros((480, 640), np.bool_)
    mask[101, 203] = True
    tiny = Layout.of([mask])
    assert tiny.area[0] > 0
    assert abs(tiny.centres[0] - (203 / 640, 101 / 480)).max() < 0.02
