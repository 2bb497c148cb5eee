"""Who is asked what, in which order, and what becomes of the answers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.curation.conftest import MASKS, SIZE, Scripted, flat_features
from tests.curation.test_tree import picture_of
from ureca.models.curation.prompts import parse_verdict
from ureca.models.curation.stages import CurationConfig, find_similar, run_stages
from ureca.models.curation.tree import TreeConfig, build_tree
from ureca.models.runtime.server import views
from ureca.models.runtime.server.answers import parse_sentence

NESTED = {name: mask for name, mask in MASKS.items() if name in "1234"}


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(0, 255, (*SIZE, 3), np.uint8)


def run(masks, image, annotator, **changes):
    config = CurationConfig(**{"similar": 1.1, **changes})
    return run_stages(picture_of(masks), image, annotator, features=flat_features, config=config)


def asked(annotator, kind):
    return [q.region_id for q in annotator.asked if q.kind == kind]


def prompt(annotator, kind, region_id):
    (found,) = [q for q in annotator.asked if (q.kind, q.region_id) == (kind, region_id)]
    return found.prompt


def test_short_from_the_top_and_long_from_the_bottom(image):
    annotator = Scripted()
    picture = run(NESTED, image, annotator)
    assert asked(annotator, "short") == ["1", "2", "4", "3"]
    assert asked(annotator, "long") == ["2", "1"]  # leaves have nothing to add
    assert "a thing called 1" in prompt(annotator, "short", "2")
    assert "a thing called 2" in prompt(annotator, "short", "4")  # its sibling
    assert "a thing called 3" in prompt(annotator, "long", "2")
    assert "a long story of 2" in prompt(annotator, "long", "1")
    told = {region.region_id: (region.short, region.long) for region in picture.regions}
    assert told["3"] == ("a thing called 3", "a thing called 3")
    assert told["1"] == ("a thing called 1", "a long story of 1")


def test_a_part_is_shown_in_its_main_thing_alone_and_in_the_scene(image):
    annotator = Scripted()
    run(NESTED, image, annotator)
    (question,) = [q for q in annotator.asked if (q.kind, q.region_id) == ("short", "3")]
    within, alone, scene = question.views
    assert scene.shape == image.shape
    np.testing.assert_array_equal(within, views.draw_within(image, NESTED["3"], NESTED["1"]))
    assert alone.shape != image.shape


def test_a_thing_without_words_takes_its_parts_along(image):
    annotator = Scripted({("short", "2"): "an outlined thing"})  # it speaks of our line
    picture = run(NESTED, image, annotator)
    ends = {region.region_id: region.left_out for region in picture.regions}
    assert ends == {"1": None, "2": "bad_answer", "3": "orphan", "4": None}
    assert "3" not in asked(annotator, "short")


def test_things_that_look_alike_get_new_words_and_those_are_exported(image):
    masks = {"1": MASKS["1"], "5": MASKS["5"]}
    annotator = Scripted()
    picture = run(masks, image, annotator, similar=0.5)
    assert asked(annotator, "refine") == ["1", "5"]
    assert [region.caption for region in picture.regions] == ["the only 1", "the only 5"]
    assert picture.regions[0].similar == ("5",)
    assert "a thing called 5" in prompt(annotator, "refine", "1")


def test_a_part_is_not_compared_with_what_it_is_a_part_of(image):
    picture = build_tree(picture_of(NESTED), TreeConfig())
    found = find_similar(picture, image, flat_features, CurationConfig(similar=0.5))
    assert "1" not in found  # everything else is a part of it
    assert found["2"] == ["4"]
    assert set(found["4"]) == {"2", "3"}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("True", None), ("no.", "not_verified"), ("False, it is blue", "not_verified")],
)
def test_captions_that_do_not_hold_are_left_out(image, reply, expected):
    picture = run({"1": MASKS["1"]}, image, Scripted({("verify", "1"): reply}))
    assert picture.regions[0].left_out == expected


def test_an_answer_without_a_verdict_is_no_yes(image):
    picture = run({"1": MASKS["1"]}, image, Scripted({("verify", "1"): "perhaps"}))
    assert picture.regions[0].left_out == "bad_answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('  "A red\nmug."  ', "A red mug."),
        ("", None),
        ("...", None),
        ("The mug inside the yellow line", None),
        ("x" * 1300, None),
        ("a line of trees", "a line of trees"),
    ],
)
def test_which_answers_are_captions(text, expected):
    assert parse_sentence(text) == expected


def test_verdicts():
    assert parse_verdict("**True**") is True
    assert parse_verdict("It is false.") is False
    assert parse_verdict("untrue") is None


def test_views_do_not_touch_the_picture(image):
    before = image.copy()
    for view in (
        views.draw_outlined(image, MASKS["1"]),
        views.draw_alone(image, MASKS["6"]),
        views.draw_numbered(image, [MASKS["1"], MASKS["5"]]),
    ):
        assert view.dtype == np.uint8
        assert view.size
    np.testing.assert_array_equal(image, before)
    assert (views.draw_outlined(image, MASKS["1"]) != image).any()
