"""Attributes that are mined from words: what counts, and what is known not to apply."""

import pytest

from ureca.models.data.attributes import NOT_APPLICABLE, mine_attributes
from ureca.models.data.counts import count_records
from ureca.models.data.regions import RegionRecord

NONE = frozenset({NOT_APPLICABLE})


def record(*short: str, long: tuple[str, ...] = (), **more) -> RegionRecord:
    row = {
        "region_id": "r",
        "image_key": "k",
        "bbox": [0, 0, 2, 2],
        "rle": {"size": [2, 2], "counts": "04"},
        "expressions": list(short),
        "expressions_long": list(long),
        **more,
    }
    return RegionRecord.from_json(row)


@pytest.mark.parametrize(
    ("phrases", "name", "words"),
    [
        (("a red mug", "the mug"), "colour", {"red"}),
        (("a gray wall", "a silver wall"), "colour", {"grey"}),
        (("a wooden table",), "material", {"wood"}),
        (("a small polka dot bag",), "pattern", {"spotted"}),
        (("a small polka dot bag",), "size", {"small"}),
        (("two open drawers",), "count", {"two"}),
        (("an open door",), "state", {"open"}),
        (("a brown and white dog",), "colour", None),
        (("a cup and a red ball",), "colour", None),
        (("a shirt in red",), "colour", None),
        (("a red",), "colour", None),
    ],
)
def test_adjectives_count_before_the_noun_and_never_across_and(phrases, name, words):
    assert mine_attributes(record(*phrases)).get(name) == (words and frozenset(words))


def test_people_have_clothes_hair_and_ages_and_no_colour():
    people = record(
        "a young black woman",
        "a blond girl",
        long=("a blond girl wearing a red coat and jeans", "a girl riding a horse"),
        types=["people"],
        category="woman",
    )
    mined = mine_attributes(people, ["A blond girl is standing on grass .", "A dog runs ."])
    assert mined["clothing"] == {"jacket", "jeans"}
    assert mined["hair"] == {"blond hair"}
    assert mined["age"] == {"young", "child"}
    assert mined["pose"] == {"standing"}
    assert mined["category"] == {"person"}
    assert (mined["colour"], mined["material"]) == (NONE, NONE)


def test_things_have_no_hair_and_do_nothing():
    mined = mine_attributes(record("a car", category="car"))
    assert {name for name, words in mined.items() if words == NONE} == {
        *("clothing", "hair", "age", "interaction", "pose", "expression")
    }
    animal = mine_attributes(record("a dog", types=["animals"]), ["A dog runs ."])
    assert "pose" not in {name for name, words in animal.items() if words == NONE}
    assert mine_attributes(record("a dog", types=["animals"]), ["a dog runs"])["pose"] == {
        "running"
    }


def test_what_a_source_says_is_taken_by_name_and_survives_its_file():
    said = {
        "color": "green",
        "weight": "light",
        "shape": ["round", "a ball that is round all over"],
    }
    toy = record("a ball", attributes=said)
    assert RegionRecord.from_json(toy.to_json()) == toy
    mined = mine_attributes(toy)
    assert (mined["colour"], mined["shape"], "weight" in mined) == ({"green"}, {"round"}, False)


def test_data_check_counts_regions_by_attribute():
    counts = count_records([record("a red mug"), record("a mug"), record()], [], 16)
    assert counts.regions_by["attribute"] == {"count": 2, "colour": 1}
