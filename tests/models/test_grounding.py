"""Grounding through its interface, with the shipped fakes."""

import msgspec
import numpy as np
import pytest

from ureca.datatypes import RegionInput
from ureca.engine import supports_scoring
from ureca.models.runtime.grounding import PLAIN_WEIGHTS, Candidate, Grounder
from ureca.testing import ScriptedEngine, SyntheticSource


@pytest.fixture
def scene():
    return SyntheticSource(things=4)


@pytest.fixture
def asked(scene):
    """Texts to the colours that were found."""
    engine = ScriptedEngine()
    masks = scene.masks(0)
    candidates = [Candidate(mask, key=colour) for colour, mask in masks.items()]
    grounder = Grounder(engine, PLAIN_WEIGHTS)

    def ask(*texts, **kwargs):
        results = grounder.find(engine.encode(scene.image(0)), candidates, texts, **kwargs)
        return [[candidates[region.index].key for region in r.regions] for r in results]

    return ask


def test_the_fake_scores_texts_by_its_own_words(scene):
    engine = ScriptedEngine()
    assert supports_scoring(engine)
    regions = [RegionInput(mask) for mask in scene.masks(0).values()]
    scores = engine.score(engine.encode(scene.image(0)), regions, ["red mug", "mug"], max_fit=2)
    assert scores.bag.tolist() == [[4.0, -4.0, -4.0, -4.0], [-4.0] * 4]
    assert np.isfinite(scores.fit).sum(axis=1).tolist() == [2, 2]
    assert scores.tokens.tolist() == [2, 1]


def test_one_several_and_none(asked):
    assert asked("a red thing", "a pink mug", "two things") == [["red"], [], ["red", "green"]]


def test_geometry_answers_sides(asked, scene):
    boxes = scene.boxes_xyxy_px(0)
    left, right = min(boxes, key=lambda c: boxes[c][0]), max(boxes, key=lambda c: boxes[c][2])
    assert asked("the leftmost thing", "the thing on the right") == [[left], [right]]


def test_both_or_none_of_a_conjunction(asked):
    both = asked("the red thing and the blue thing", "the red thing and a mug")
    assert both == [["red", "blue"], []]


def test_without_candidates_nothing_is_there():
    engine = ScriptedEngine()
    frame = engine.encode(np.zeros((10, 10, 3), np.uint8))
    (result,) = Grounder(engine, PLAIN_WEIGHTS).find(frame, [], ["a cup"])
    assert (result.regions, result.none_probability) == ((), 1.0)


def test_answers_stand_in_the_order_of_their_place_not_of_their_probability(scene):
    """The two are separate models: the surest to be true need not be the best place."""
    weights = msgspec.structs.replace(
        PLAIN_WEIGHTS, presence={"bias": 2.0, "bag": -0.1}, min_several=0.0, max_gap=100.0
    )
    engine = ScriptedEngine()
    candidates = [Candidate(mask) for mask in scene.masks(0).values()]
    frame = engine.encode(scene.image(0))
    (result,) = Grounder(engine, weights).find(frame, candidates, ["blue things"])
    assert list(scene.masks(0))[result.regions[0].index] == "blue"
    chances = [region.probability for region in result.regions]
    assert len(chances) > 1
    assert chances[0] == min(chances)
