from __future__ import annotations

import pytest

from ureca.datatypes import RowDone, Stop
from ureca.node.config import CaptionConfig
from ureca.node.gate import complaint


def done(text: str, *, stop: Stop = "eos", score: float = 0.5) -> RowDone:
    return RowDone(row=0, text=text, n_tok=3, stop=stop, score=score)


@pytest.mark.parametrize("text", ["a red mug", "a very very very big dog", "the left of the left"])
def test_captions_pass(text: str) -> None:
    assert complaint(done(text), CaptionConfig()) is None


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
    ],
)
def test_what_is_no_caption_is_named(bad: RowDone, words: str) -> None:
    assert words in (complaint(bad, CaptionConfig()) or "")
