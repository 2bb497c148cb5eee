"""Scores of the captions of matched segments, by Pix2Cap's formula as released and corrected.

Pix2Cap (arXiv 2501.13893) multiplies the corpus score of the captions of matched pairs by the share
of segments that were matched: matched / (matched + missed + invented). Its released code has
defects; `score_as_released` keeps them, `score_corrected` does not:

| As released | Corrected |
|---|---|
| METEOR is switched off and reported as 0 | METEOR 1.5 |
| one table prints SPICE under ROUGE and ROUGE under SPICE | names and figures agree |
| mAP: candidate and reference are exchanged | they are not |
| mAP: the predicted text is taken for a list, each character for a reference | whole texts |
| mAP: detections are not sorted | sorted by score |
| mAP: crowds count as segments to be found | they do not |
| mAP: every overlapping pair is a detection | the best pair of each predicted segment |

Texts are split by `normalise_text` here, not by the PTB tokenizer; METEOR inside mAP is NLTK's
formula with exact words, without WordNet; SPICE is not computed. The last row is a defect, too:
the code's own table of best IoUs stays empty.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ureca.models.evaluation.measures.meteor import Meteor
from ureca.models.evaluation.panoptic.matching import PictureMatches, SegmentPair
from ureca.models.evaluation.text.ngrams import compute_bleu, compute_cider, compute_rouge_l
from ureca.models.evaluation.text.phrase_parsing import normalise_text

Json = dict[str, Any]  # JSON values
IOUS = (0.3, 0.4, 0.5, 0.6, 0.7)
METEORS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
_RECALLS = np.arange(0, 1.01, 0.01)


def score_as_released(matches: Sequence[PictureMatches]) -> Json:
    """The figures that Pix2Cap's code would report, without SPICE."""
    share = compute_matched_share(matches)
    corpus = _score_corpus(_list_described(matches), None)
    truths = sum(len(one.missed) + _count_true(one) + one.crowds for one in matches)
    found = [pair for one in matches for pair in one.overlaps]
    scores = [compute_released_meteor(pair) for pair in found]
    return {
        **{name: _times(value, share) for name, value in corpus.items()},
        "meteor": 0.0,
        "map": compute_map([pair.iou for pair in found], scores, truths),
        "printed": {"rouge": None, "spice": _times(corpus["rouge_l"], share)},
    }


def score_corrected(matches: Sequence[PictureMatches], meteor: Meteor | None) -> Json:
    """The same product and mAP without the defects; METEOR is None without Java."""
    share = compute_matched_share(matches)
    corpus = _score_corpus(_list_described(matches), meteor)
    truths = sum(len(one.missed) + _count_true(one) for one in matches)
    found = [pair for one in matches for pair in _keep_best(one.overlaps)]
    found.sort(key=lambda pair: -pair.predicted.score)
    scores = [
        compute_word_meteor(_split(pair.predicted.caption), list(map(_split, pair.true.references)))
        for pair in found
    ]
    return {
        **{name: _times(value, share) for name, value in corpus.items()},
        "map": compute_map([pair.iou for pair in found], scores, truths),
        "unweighted": corpus,
    }


def compute_matched_share(matches: Sequence[PictureMatches]) -> float:
    """matched / (matched + missed + invented)."""
    matched = sum(len(one.pairs) for one in matches)
    total = matched + sum(len(one.missed) + len(one.invented) for one in matches)
    return matched / total if total else 0.0


def compute_map(ious: Sequence[float], scores: Sequence[float], truths: int) -> float:
    """Mean average precision over IoUs .3 to .7 and METEORs 0 to .25, 101 recalls each; detections
    in the given order.
    """
    if not ious or not truths:
        return 0.0
    overlap, quality = np.array(ious), np.array(scores)
    ranks = np.arange(1, len(overlap) + 1)
    found = []
    for least_iou in IOUS:
        for least in METEORS:
            hits = np.cumsum((overlap >= least_iou) & (quality > least))
            recall, precision = hits / truths, hits / ranks
            best = np.maximum.accumulate(precision[::-1])[::-1]
            places = np.searchsorted(recall, _RECALLS)
            found.append(np.mean(np.append(best, 0.0)[places]))
    return round(float(np.mean(found)), 4)


def compute_released_meteor(pair: SegmentPair) -> float:
    """METEOR as the released mAP takes it: the truth is judged against the characters of the
    prediction.
    """
    references = [character.split() for character in pair.predicted.caption]
    candidate = pair.true.references[0].split() if pair.true.references else []
    return compute_word_meteor(candidate, references)


def compute_word_meteor(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR of the best reference with exact words: NLTK's formula, alpha .9, beta 3, gamma .5."""
    return max((_compare(candidate, one) for one in references), default=0.0)


def _compare(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """Words are aligned as NLTK aligns them: the last ones first."""
    left = list(enumerate(reference))
    pairs = []
    for place in range(len(candidate) - 1, -1, -1):
        other = next((n for n, word in reversed(left) if word == candidate[place]), None)
        if other is not None:
            pairs.append((place, other))
            left.remove((other, candidate[place]))
    if not pairs:
        return 0.0
    pairs.sort()
    steps = itertools.pairwise(pairs)
    chunks = 1 + sum((b[0], b[1]) != (a[0] + 1, a[1] + 1) for a, b in steps)
    precision, recall = len(pairs) / len(candidate), len(pairs) / len(reference)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return float(mean * (1 - 0.5 * (chunks / len(pairs)) ** 3))


def _keep_best(overlaps: Sequence[SegmentPair]) -> list[SegmentPair]:
    """The pair with the highest IoU of each predicted segment."""
    best: dict[int, SegmentPair] = {}
    for pair in sorted(overlaps, key=lambda pair: pair.iou):
        best[pair.predicted.number] = pair
    return list(best.values())


def _count_true(matches: PictureMatches) -> int:
    return len({pair.true.number for pair in matches.pairs})


def _list_described(matches: Sequence[PictureMatches]) -> list[SegmentPair]:
    """Matched pairs of which both sides have words."""
    pairs = (pair for one in matches for pair in one.pairs)
    return [pair for pair in pairs if any(pair.true.references) and pair.predicted.caption]


def _score_corpus(pairs: Sequence[SegmentPair], meteor: Meteor | None) -> dict[str, float | None]:
    """BLEU-4, ROUGE-L, CIDEr and METEOR of the captions of pairs, n beside them."""
    captions = {str(n): normalise_text(pair.predicted.caption) for n, pair in enumerate(pairs)}
    references = {
        str(n): [normalise_text(text) for text in pair.true.references if text]
        for n, pair in enumerate(pairs)
    }
    texts, others = list(captions.values()), list(references.values())
    if not pairs:
        return dict.fromkeys(("bleu_4", "rouge_l", "cider", "meteor"))
    corpus = None
    if meteor is not None:
        rows = [meteor.match(text, known) for text, known in zip(texts, others, strict=True)]
        corpus = meteor.evaluate(rows)[1]
    return {
        "bleu_4": compute_bleu(texts, others)[3] or 0.0,
        "rouge_l": float(np.mean(list(compute_rouge_l(captions, references).values()))),
        "cider": float(np.mean(list(compute_cider(captions, references).values()))),
        "meteor": corpus,
    }


def _times(value: float | None, share: float) -> float | None:
    return None if value is None or math.isnan(value) else round(value * share, 4)


def _split(text: str) -> list[str]:
    return normalise_text(text).split()
