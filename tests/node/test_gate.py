from __future__ import annotations

import pytest

from ureca.datatypes import RowDone, Stop
from ureca.node.captioning.output_filter import find_rejection
from ureca.node.config import CaptionConfig


def done(text: str, *, stop: Stop = "eos", score: float = 0.5) -> RowDone:
    return RowDone(row=0, text=text, n_tok=3, stop=stop, score=score)


@pytest.mark.parametrize(
    "text",
    [
        "a red mug",
        "a very very very big dog",
        "the left of the left",
        'a sign: "50 % off!"',
        "杯子",
    ],
)
def test_captions_pass(text: str) -> None:
    assert find_rejection(done(text), CaptionConfig()) is None


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (done(""), "empty"),
        (done("  "), "empty"),
        (done("a mug", stop="non_finite"), "finite"),
        (done("red red red red red"), "'red' is repeated 5 times"),
        (done("a mug on a mug on a mug on a mug on"), "repeated 4 times"),
        (done("x" * 401), "401 characters"),
        (done("a\x07mug"), "printed"),
        (done("a red \ufffd\ufffd mug"), "no text"),
        (done("?! ... ###"), "letters"),
        (done("a ?! ... ###"), "letters"),  # one letter makes no caption
        (done("x = { y ; } : z"), "letters"),
        (done("a mug", score=float("nan")), "score"),
    ],
)
def test_what_is_no_caption_is_named(bad: RowDone, words: str) -> None:
    found = find_rejection(bad, CaptionConfig())
    assert found is not None
    assert words in found.words


def test_a_score_is_the_geometric_mean_so_a_bound_on_it_is_one_on_the_log_probability() -> None:
    bound = CaptionConfig(min_score=0.2)
    assert find_rejection(done("a mug", score=0.21), bound) is None
    found = find_rejection(done("a mug", score=0.19), bound)
    assert found is not None
    assert found.fault == "score"
