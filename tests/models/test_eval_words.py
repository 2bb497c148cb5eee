"""Head nouns, accepted names and the readings behind the fault figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.models.evaluation.measures import failure_rates
from ureca.models.evaluation.text.phrase_parsing import (
    accepted_names,
    head_nouns,
    is_headed_by,
    names_it,
    normal,
    singular,
)


@pytest.mark.parametrize(
    ("phrase", "heads"),
    [
        ("a small brown and black dog", ("dog",)),
        ("Two young women wearing red hats", ("woman",)),
        ("a group of dogs on the beach", ("group", "dog")),
        ("the handle of a red mug", ("handle",)),
        ("his hind legs", ("leg",)),
        ("a man throwing a ball", ("man",)),
        ("the fishing boat", ("boat",)),
        ("holding a stick", ("stick",)),
        ("a dark blue", ()),
        ("a the", ()),
        ("", ()),
    ],
)
def test_head_nouns(phrase, heads):
    assert head_nouns(phrase) == heads


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("men", "man"),
        ("boxes", "box"),
        ("puppies", "puppy"),
        ("bus", "bus"),
        ("jeans", "jeans"),
        ("ties", "tie"),
        ("glass", "glass"),
        ("leaves", "leaf"),
    ],
)
def test_singular(plural, one):
    assert singular(plural) == one


def test_a_class_of_two_words_is_hit_as_a_whole_or_by_a_synonym():
    accepted = accepted_names("fire hydrant", ())
    assert names_it("a red fire hydrant", accepted)
    assert names_it("two hydrants", accepted)
    assert not names_it("a fire", accepted)
    assert is_headed_by("an old fire hydrant on the street", accepted)
    assert not is_headed_by("a dog beside a fire hydrant", accepted)


def test_references_widen_what_is_accepted():
    accepted = accepted_names("person", ["a young chef", "the cook in white"])
    assert all(is_headed_by(text, accepted) for text in ("a man", "chefs", "a cook"))
    assert not names_it("a dog", accepted)


@given(st.text(max_size=60))
def test_every_text_can_be_read(text):
    assert normal(normal(text)) == normal(text)
    assert len(head_nouns(text)) <= len(normal(text).split())


@pytest.mark.parametrize(
    ("reading", "text", "found"),
    [
        (failure_rates.genders, "a young man in a red shirt", {"male"}),
        (failure_rates.genders, "a man and a woman", {"male"}),
        (failure_rates.genders, "a person", set()),
        (failure_rates.ages, "two little girls", {"child"}),
        (failure_rates.ages, "a lady", {"grown"}),
        (failure_rates.colours, "a grey and white dog", {"gray", "white"}),
        (failure_rates.colours, "a man in a red shirt", set()),
        (failure_rates.numbers, "a dog", {"one"}),
        (failure_rates.numbers, "dogs", {"many"}),
        (failure_rates.numbers, "three deer", {"many"}),
        (failure_rates.numbers, "a group of people", {"many"}),
        (failure_rates.numbers, "blue jeans", set()),
        (failure_rates.numbers, "a bus", {"one"}),
    ],
)
def test_readings(reading, text, found):
    assert reading(text) == found


def test_templates_blank_people_colours_and_garments():
    texts = ["a man in a blue shirt", "a woman in a red dress", "a dog on grass"]
    assert failure_rates.commonest_template(texts) == ("a PERSON in a COLOUR GARMENT", 2)
    assert failure_rates.commonest_template([]) == ("", 0)
