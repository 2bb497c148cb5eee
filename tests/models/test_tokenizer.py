"""The tokenizer: round trips, fixed special ids, and deltas that add up to the whole text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.errors import WeightsError
from ureca.models.tokenizer import (
    EOS_ID,
    LONG_ID,
    PAD_ID,
    SHORT_ID,
    Detokenizer,
    Tokenizer,
    train_tokenizer,
)

CAPTIONS = (
    "a red cup on the wooden table",
    "the man's blue jacket",
    "a woman in a green dress is holding an umbrella, smiling",
    "two dogs running through shallow water",
    "white plate with a half-eaten sandwich",
)


TOKENIZER = train_tokenizer(CAPTIONS * 3, 200)


def test_special_tokens_have_fixed_ids() -> None:
    assert (PAD_ID, SHORT_ID, LONG_ID, EOS_ID) == (0, 1, 2, 3)
    assert Tokenizer.start_id("short") == SHORT_ID
    assert Tokenizer.start_id("long") == LONG_ID


@pytest.mark.parametrize("text", CAPTIONS)
def test_captions_survive_a_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_text_is_lower_cased_and_unknown_characters_left_out() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("A Réd cup ☃")) == "a red cup"


def test_text_never_becomes_special_tokens_of_a_running_caption() -> None:
    ids = TOKENIZER.encode("a cup")
    assert TOKENIZER.decode([SHORT_ID, *ids, EOS_ID, PAD_ID]) == "a cup"
    assert min(ids) > EOS_ID


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(path)
    assert Tokenizer.load(path).encode(CAPTIONS[0]) == TOKENIZER.encode(CAPTIONS[0])


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', "not json"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf8")
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot read"):
        Tokenizer.load(tmp_path / "absent.json")


def test_training_is_deterministic() -> None:
    assert train_tokenizer(CAPTIONS * 3, 200).encode(CAPTIONS[2]) == TOKENIZER.encode(CAPTIONS[2])


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40))
def test_deltas_joined_equal_the_whole_text(ids: list[int]) -> None:
    growing = Detokenizer(TOKENIZER)
    said = ""
    for token_id in ids:
        delta = growing.push(token_id)
        said += delta
        assert growing.text == said
    said += growing.finish()
    assert said == TOKENIZER.decode(ids)


@given(st.text(max_size=60))
def test_any_text_can_be_encoded(text: str) -> None:
    once = TOKENIZER.decode(TOKENIZER.encode(text))
    assert TOKENIZER.decode(TOKENIZER.encode(once)) == once
