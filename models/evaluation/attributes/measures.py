"""Figures of answers to one attribute: accuracy, coverage, calibration, FineCaption's measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from ureca.attributes import AttributeAnswer
from ureca.errors import MissingExtraError
from ureca.models.data.attributes import NOT_APPLICABLE
from ureca.models.evaluation.measures.meteor import Meteor
from ureca.models.evaluation.text import ngrams

Figures = dict[str, float | int | None]
_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer and the words that people used: right if it says one of them. Only
    `NOT_APPLICABLE`: the attribute does not apply, and only abstaining is right.
    """

    answer: AttributeAnswer
    words: frozenset[str]

    @property
    def applies(self) -> bool:
        """Whether the region has the attribute."""
        return self.words != {NOT_APPLICABLE}

    @property
    def committed(self) -> bool:
        """Whether it says a word."""
        return self.answer.status == "said"

    @property
    def right(self) -> bool:
        """Whether it says one of the words."""
        return self.committed and self.answer.text in self.words


def judge(answers: Sequence[JudgedAnswer], meteor: Meteor | None = None) -> Figures:
    """Figures of one attribute. `all`: right of all regions that have it (abstaining is wrong);
    `committed`: right of those where a word was said, `coverage` their share; `ece` their
    calibration error in ten bins of equal mass; `commonest`: right if the commonest word were
    always said. `said_falsely`: share of regions without the attribute that get a word. The
    measures of texts are of all regions that have it, abstaining is an empty text.
    """
    real = [one for one in answers if one.applies]
    others = [one for one in answers if not one.applies]
    said = [one for one in real if one.committed]
    figures: Figures = {"n": len(real), "committed_n": len(said), "not_applicable_n": len(others)}
    if real:
        figures["all"] = _share([one.right for one in real])
        figures["coverage"] = len(said) / len(real)
        counts = Counter(word for one in real for word in one.words)
        figures["commonest"] = counts.most_common(1)[0][1] / len(real)
        figures |= _score_texts(real, meteor)
    if said:
        right = np.array([one.right for one in said], float)
        figures["committed"] = float(right.mean())
        chances = np.array([one.answer.probability or 0.0 for one in said])
        figures["ece"] = calibration_error(chances, right)
    if others:
        figures["said_falsely"] = _share([one.committed for one in others])
    return figures


def calibration_error(chances: np.ndarray, right: np.ndarray) -> float:
    """Mean gap of probability and accuracy over bins of equal mass, f64 [N] each: ten, or as many
    as have ten answers each.
    """
    order = np.argsort(chances, kind="stable")
    bins = np.array_split(order, max(1, min(_BINS, len(order) // _BINS)))
    gaps = [abs(chances[part].mean() - right[part].mean()) * len(part) for part in bins]
    return float(sum(gaps) / len(right))


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _score_texts(real: Sequence[JudgedAnswer], meteor: Meteor | None) -> Figures:
    """FineCaption's measures (AARC); None where a package is missing."""
    texts = {str(row): one.answer.text or "" for row, one in enumerate(real)}
    references = {str(row): sorted(one.words) for row, one in enumerate(real)}
    figures: Figures = dict.fromkeys(("rouge_l", "bleu_4", "meteor", "cider"))
    with suppress(MissingExtraError):
        figures["rouge_l"] = _mean(ngrams.compute_rouge_l(texts, references))
        figures["cider"] = _mean(ngrams.compute_cider(texts, references))
        bleu = ngrams.compute_bleu([*texts.values()], [*references.values()])
        figures["bleu_4"] = bleu[3]
    if meteor is not None:
        matched = [meteor.match(texts[row], references[row]) for row in texts]
        figures["meteor"] = meteor.evaluate(matched)[1]
    return figures


def _mean(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores)
