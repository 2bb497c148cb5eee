"""Computes BLEU, ROUGE-L and CIDEr as `pycocoevalcap` does, without its tokenizer and printing.

Texts are normalised first (`phrase_parsing.normalise_text`), so that captions and references are
split alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ureca.extras import require

EXTRA = "eval"

Texts = Mapping[str, str]
References = Mapping[str, Sequence[str]]


def compute_bleu(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float | None]:
    """Return corpus BLEU-1 to BLEU-4 with the closest reference length.

    An order for which no caption is long enough is None. Raises `MissingExtraError`.
    """
    module = require("pycocoevalcap.bleu.bleu_scorer", extra=EXTRA)
    scorer = module.BleuScorer(n=4)
    for caption, texts in zip(captions, references, strict=True):
        scorer += (caption, list(texts))
    values, _ = scorer.compute_score(option="closest", verbose=0)
    longest = max((len(caption.split()) for caption in captions), default=0)
    # An empty order is worth 1e-6 to the package; that is no score.
    return [
        _drop_smoothing(value) if order <= longest else None
        for order, value in enumerate(values, 1)
    ]


def _drop_smoothing(value: float) -> float:
    """Return 0 for the tiny numbers that the package's smoothing leaves where no n-gram matched."""
    return 0.0 if value < 1e-3 else float(value)


def compute_rouge_l(captions: Texts, references: References) -> dict[str, float]:
    """Return ROUGE-L of every caption. Raises `MissingExtraError`."""
    scorer = require("pycocoevalcap.rouge.rouge", extra=EXTRA).Rouge()
    return {
        key: float(scorer.calc_score([caption], list(references[key])))
        for key, caption in captions.items()
    }


def compute_cider(captions: Texts, references: References) -> dict[str, float]:
    """Return CIDEr-D of every caption, 0 to 10.

    Document frequencies come from the references of all given captions, so subsets must be averaged
    from one call, not computed again. Raises `MissingExtraError`.
    """
    if not captions:
        return {}
    scorer = require("pycocoevalcap.cider.cider", extra=EXTRA).Cider()
    _, values = scorer.compute_score(
        {key: list(references[key]) for key in captions},
        {key: [caption] for key, caption in captions.items()},
    )
    return {key: float(value) for key, value in zip(captions, values, strict=True)}
