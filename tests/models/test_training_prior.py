"""Logit adjustment: what is said often counts for less, and nothing else changes."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("tokenizers", reason="needs the train extra")

import torch.nn.functional as F  # noqa: E402

from ureca.models.tokenizer import EOS_ID, train_tokenizer  # noqa: E402
from ureca.models.training.logit_prior import compute_log_prior  # noqa: E402

OFTEN, SELDOM = "a man", "a lemon"
TEXTS = [OFTEN] * 900 + [SELDOM] * 100


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 64)


def only(tokenizer, word):
    (token,) = tokenizer.encode(word)
    return token


def test_the_prior_is_the_log_of_the_share(tokenizer):
    prior = compute_log_prior(TEXTS, tokenizer, size=64)
    man, lemon = (float(prior[only(tokenizer, word)]) for word in ("man", "lemon"))
    assert man - lemon == pytest.approx(math.log(900 / 100), rel=1e-4)
    assert man == pytest.approx(math.log(900 / 2000 / 1e-3), rel=1e-4)


def test_words_of_grammar_and_special_tokens_are_left_alone(tokenizer):
    prior = compute_log_prior(TEXTS, tokenizer, size=64)
    assert float(prior[only(tokenizer, "a")]) == 0
    assert prior[: EOS_ID + 1].eq(0).all()


def test_what_is_never_said_is_as_the_rarest(tokenizer):
    prior = compute_log_prior(TEXTS, tokenizer, size=80)
    assert float(prior[79]) == pytest.approx(math.log(2e-5 / 1e-3), rel=1e-4)
    assert torch.isfinite(prior).all()


def test_a_model_that_sees_nothing_learns_the_habit_less_the_prior(tokenizer):
    """With weight 1 the habit is taken off whole: where the picture tells nothing, all are even."""
    said = torch.tensor([only(tokenizer, text.split()[1]) for text in TEXTS])
    pair = [only(tokenizer, "man"), only(tokenizer, "lemon")]
    gaps = []
    for weight in (0.0, 0.5, 1.0):
        prior, logits = weight * compute_log_prior(TEXTS, tokenizer, size=64), torch.zeros(64)
        logits.requires_grad_()
        adam = torch.optim.Adam([logits], lr=0.1)
        for _ in range(400):
            adam.zero_grad()
            F.cross_entropy((logits + prior).expand(len(said), -1), said).backward()
            adam.step()
        gaps.append(float((logits[pair[0]] - logits[pair[1]]).detach()))
    assert gaps == pytest.approx([math.log(9), math.log(9) / 2, 0.0], abs=0.05)
