"""Texts of mirrored pictures and phrases for class names."""

import pytest

from ureca.models.data.regions import read_regions
from ureca.models.data.text_augmentation import add_article, make_class_phrase, mirror_text

SWAPPED = [
    ("a mug to the left of a plate", "a mug to the right of a plate"),
    ("the leftmost of three cups", "the rightmost of three cups"),
    ("a lamp on the left-hand side", "a lamp on the right-hand side"),
    ("her right hand", "her left hand"),
    ("a dog's right ear", "a dog's left ear"),
    ("a boy looking left", "a boy looking right"),
    ("a line from left to right", "a line from right to left"),
    ("Left arm, right leg", "Right arm, left leg"),
    ("the top left drawer", "the top right drawer"),
    ("top left of frame", "top right of frame"),
    ("the bottom-left corner", "the bottom-right corner"),
    ("one on his left and one to his back right.", "one on his right and one to his back left."),
]
KEPT = [
    "an upright freezer on a bright street",
    "right in front of the house",
    "a man is right behind a cow",
    "a bear seated right next to a child",
    "the umbrella is left open",
    "a group of skiers have left a trail",
    "leftover pizza",
    "an animal rights sign",
    "looking in the right direction",
    "2 dogs",
    "",
]
DOUBTFUL = [
    "right",
    "the right umbrella",
    "their right to protest",
    "a lefty",
    "a boat seen from starboard",
    "people turning counter-clockwise",
    "a player with number 8",
    "a banner that reads run",
    "a clock at 10:20",
]


@pytest.mark.parametrize(("text", "mirrored"), SWAPPED)
def test_sides_change_places_and_back_again(text, mirrored):
    assert mirror_text(text) == mirrored
    assert mirror_text(mirrored) == text


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_side_stays(text):
    assert mirror_text(text) == text


@pytest.mark.parametrize("text", DOUBTFUL)
def test_doubt_is_refused(text):
    assert mirror_text(text) is None


def test_a_mirror_of_a_mirror_is_the_text(data_root):
    texts = {
        text
        for record in read_regions(data_root / "regions-train.jsonl.gz")
        for text in (*record.short, *record.long)
        if "left" in text or "right" in text
    }
    assert len(texts) > 100
    mirrored = {text: mirror_text(text) for text in texts}
    assert all(mirror_text(m) == text for text, m in mirrored.items() if m is not None)
    assert sum(m is None for m in mirrored.values()) < 0.1 * len(texts)


@pytest.mark.parametrize(
    ("name", "source", "phrase"),
    [
        ("dog", "coco-val2017", "a dog"),
        ("scissors", "coco-train2017", "a pair of scissors"),
        ("skis", "coco-train2017", "skis"),
        ("bus", "coco-train2017", "a bus"),
        ("wine glass", "coco-train2017", "a wine glass"),
        ("orange", "coco-train2017", "an orange"),
        ("mouse", "coco-train2017", "a computer mouse"),
        ("image", "coco-val2017", None),
        ("jeans", "ccp", "jeans"),
        ("vest", "ccp", "a vest"),
        ("dress", "ccp", "a dress"),
        ("hair", "ccp", "hair"),
        ("skin", "ccp", None),
        ("accessories", "ccp", None),
        ("Top  Drawer", "", "a top drawer"),
        ("", "ccp", None),
    ],
)
def test_class_names_as_people_say_them(name, source, phrase):
    assert make_class_phrase(name, source) == phrase


def test_every_class_of_the_data_is_sayable_or_left_out(data_root):
    records = read_regions(data_root / "regions-train.jsonl.gz")
    names = {(r.category, r.source) for r in records if r.source.startswith(("coco", "ccp"))}
    said = {name: make_class_phrase(*name) for name in names}
    assert len(said) > 130
    assert {name for (name, _), phrase in said.items() if phrase is None} == {
        "image",
        "skin",
        "accessories",
    }
    wrong = [p for p in said.values() if p and p.startswith(("a ", "an ")) and p.endswith("ks")]
    assert not wrong


def test_articles_go_by_sound():
    assert [add_article(n) for n in ("uniform", "umbrella", "hour", "one", "oven")] == [
        "a uniform",
        "an umbrella",
        "an hour",
        "a one",
        "an oven",
    ]
