"""Attributes of regions: names, answers and the captions that are made of them."""

import pytest

from ureca.attributes import (
    ATTRIBUTES,
    OFF_BY_DEFAULT,
    REFUSED,
    AttributeAnswer,
    check_attributes,
    complete_answers,
    compose_dense,
)
from ureca.errors import WireError
from ureca.protocol import wire
from ureca.protocol.messagepack import convert


def said(name: str, text: str) -> AttributeAnswer:
    return AttributeAnswer(name=name, status="said", text=text, probability=0.9)


def test_names_are_checked_and_what_is_refused_says_why():
    assert check_attributes(["colour", "age", "colour"]) == ("colour", "age")
    assert check_attributes(ATTRIBUTES) == tuple(ATTRIBUTES)
    for name, why in REFUSED.items():
        with pytest.raises(ValueError, match=why):
            check_attributes([name])
    with pytest.raises(ValueError, match=r"expected attributes of category, colour, .*'weight'"):
        check_attributes(["weight"])
    assert {"age", "expression"} == OFF_BY_DEFAULT


def test_describe_takes_names_and_refuses_others_on_the_wire():
    asked = {"stream": "cam0", "rid": "red", "style": "dense", "attributes": ["colour", "state"]}
    args = convert(asked, wire.DescribeArgs, "describe")
    assert (args.style, args.attributes) == ("dense", ("colour", "state"))
    for names in (["skin"], ["weight"], ["colour"] * 33, "colour"):
        with pytest.raises(WireError) as caught:
            convert({**asked, "attributes": names}, wire.DescribeArgs, "describe")
        assert caught.value.code == "BAD_SCHEMA"


def test_every_asked_attribute_is_answered_in_its_order():
    answers = [said("age", "young"), said("colour", "red")]
    told = complete_answers(("colour", "hair", "age"), answers, off=OFF_BY_DEFAULT)
    assert [(one.name, one.status, one.text) for one in told] == [
        ("colour", "said", "red"),
        ("hair", "not_supported", None),
        ("age", "not_supported", None),
    ]
    assert complete_answers(("age",), answers)[0].text == "young"


def test_a_dense_caption_is_the_short_one_and_what_it_does_not_say_yet():
    answers = [
        said("colour", "red"),
        said("material", "metal"),
        said("size", "large"),
        AttributeAnswer(name="pattern", status="abstained", probability=0.3),
        said("state", "open"),
    ]
    assert compose_dense("a red mug", answers) == "a red mug, made of metal, open"
    assert compose_dense("a mug ", answers) == "a mug, red, made of metal, open"
    assert compose_dense("a mug", answers[2:4]) == "a mug"
    wooden = [said("material", "wood"), said("colour", "brown")]
    assert compose_dense("a wooden table", wooden) == "a wooden table, brown"
