"""Compares the caption quality of bundle and checkpoint: METEOR and CIDEr of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ureca.models.evaluation.measures.meteor import Meteor
from ureca.models.evaluation.text import ngrams
from ureca.models.evaluation.text.phrase_parsing import normalise_text

References = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class CaptionScores:
    """Scores against people's captions of the same regions; METEOR 0..1, CIDEr 0..10."""

    regions: int
    meteor_checkpoint: float
    meteor_bundle: float
    cider_checkpoint: float
    cider_bundle: float

    @property
    def meteor_drop(self) -> float:
        """How much METEOR the bundle loses. Below 0: it gains."""
        return self.meteor_checkpoint - self.meteor_bundle


def compare_caption_scores(
    ours: Sequence[str], theirs: Sequence[str], references: References
) -> CaptionScores:
    """Score the captions of checkpoint and bundle. Regions without references are left out.

    Raises `MissingExtraError` where a measure is not installed.
    """
    told = [i for i, texts in enumerate(references) if texts]
    refs = [[normalise_text(text) for text in references[i]] for i in told]
    sides = [[normalise_text(side[i]) for i in told] for side in (ours, theirs)]
    with Meteor() as meteor:
        meteors = [_score_meteor(meteor, side, refs) for side in sides]
    ciders = [_score_cider(side, refs) for side in sides]
    return CaptionScores(
        regions=len(told),
        meteor_checkpoint=meteors[0],
        meteor_bundle=meteors[1],
        cider_checkpoint=ciders[0],
        cider_bundle=ciders[1],
    )


def _score_meteor(meteor: Meteor, captions: Sequence[str], references: References) -> float:
    pairs = zip(captions, references, strict=True)
    return meteor.evaluate([meteor.match(text, refs) for text, refs in pairs])[1]


def _score_cider(captions: Sequence[str], references: References) -> float:
    names = [str(i) for i in range(len(captions))]
    refs = {name: list(texts) for name, texts in zip(names, references, strict=True)}
    each = ngrams.compute_cider(dict(zip(names, captions, strict=True)), refs)
    return sum(each.values()) / len(each)
