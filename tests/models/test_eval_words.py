"""Head nouns, accepted names and the readings behind the fault figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.models.evaluation.measures import failure_rates
from ureca.models.evaluation.text.phrase_parsing import (
    contains_name,
    find_accepted_names,
    find_head_nouns,
    is_headed_by,
    make_singular,
    normalise_text,
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
    assert find_head_nouns(phrase) == heads


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
    assert make_singular(plural) == one


def test_a_class_of_two_words_is_hit_as_a_whole_or_by_a_synonym():
    accepted = find_accepted_names("fire hydrant", ())
    assert contains_name("a red fire hydrant", accepted)
    assert contains_name("two hydrants", accepted)
    assert not contains_name("a fire", accepted)
    assert is_headed_by("an old fire hydrant on the street", accepted)
    assert not is_headed_by("a dog beside a fire hydrant", accepted)


def test_references_widen_what_is_accepted():
    accepted = find_accepted_names("person", ["a young chef", "the cook in white"])
    assert all(is_headed_by(text, accepted) for text in ("a man", "chefs", "a cook"))
    assert not contains_name("a dog", accepted)


@given(st.text(max_size=60))
def test_every_text_can_be_read(text):
    assert normalise_text(normalise_text(text)) == normalise_text(text)
    assert len(find_head_nouns(text)) <= len(normalise_text(text).split())


@pytest.mark.parametrize(
    ("reading", "text", "found"),
    [
        (failure_rates.find_genders, "a young man in a red shirt", {"male"}),
        (failure_rates.find_genders, "a man and a woman", {"male"}),
        (failure_rates.find_genders, "a person", set()),
        (failure_rates.find_ages, "two little girls", {"child"}),
        (failure_rates.find_ages, "a lady", {"grown"}),
        (failure_rates.find_colours, "a grey and white dog", {"gray", "white"}),
        (failure_rates.find_colours, "a man in a red shirt", set()),
        (failure_rates.find_numbers, "a dog", {"one"}),
        (failure_rates.find_numbers, "dogs", {"many"}),
        (failure_rates.find_numbers, "three deer", {"many"}),
        (failure_rates.find_numbers, "a group of people", {"many"}),
        (failure_rates.find_numbers, "blue jeans", set()),
        (failure_rates.find_numbers, "a bus", {"one"}),
    ],
)
def test_readings(reading, text, found):
    assert reading(text) == found


def test_templates_blank_people_colours_and_garments():
    texts = ["a man in a blue shirt", "a woman in a red dress", "a dog on grass"]
    assert failure_rates.find_commonest_template(texts) == ("a PERSON in a COLOUR GARMENT", 2)
    assert failure_rates.find_commonest_template([]) == ("", 0)
