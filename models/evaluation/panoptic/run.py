"""Predictions against truths: every figure of `ureca eval panoptic`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from ureca.errors import MissingExtraError
from ureca.models.evaluation.measures.meteor import Meteor
from ureca.models.evaluation.panoptic.captions import (
    compute_matched_share,
    score_as_released,
    score_corrected,
)
from ureca.models.evaluation.panoptic.cases import PanopticCase, TrueSegment
from ureca.models.evaluation.panoptic.matching import (
    PictureMatches,
    PredictedSegment,
    Prediction,
    match_segments,
)
from ureca.models.evaluation.panoptic.quality import (
    HeadNouns,
    average_classes,
    compute_interval,
    count_kind,
    count_matches,
    sum_counts,
)

Json = dict[str, Any]  # JSON values
Judged = tuple[PanopticCase, Prediction]


def summarise(
    rows: Sequence[Judged], *, seed: int, meteor: bool = True, by_class: bool = False
) -> Json:
    """All figures of some pictures. With `by_class`, the captions of pairs are compared where the
    classes agree, as Pix2Cap does; predictions must have classes then.
    """
    plain = [match_segments(*row) for row in rows]
    counts = [count_matches(one) for one in plain]
    return {
        **sum_counts(counts).to_json(),
        "pq_interval": compute_interval(counts, seed=seed),
        "things": sum_counts(count_kind(one, stuff=False) for one in plain).to_json(),
        "stuff": sum_counts(count_kind(one, stuff=True) for one in plain).to_json(),
        "head_noun": _judge_head_nouns(rows, seed=seed),
        "coverage": round(float(np.mean([found.coverage for _, found in rows])), 4),
        "captions": _judge_captions(rows, plain, meteor=meteor, by_class=by_class),
        "segments": _count_segments(rows),
        "n": len(rows),
    }


def _judge_head_nouns(rows: Sequence[Judged], *, seed: int) -> Json:
    """The caption's head noun as the class: all segments together, and as means over classes."""
    nouns = HeadNouns()
    named = [match_segments(*row, agrees=nouns.agrees) for row in rows]
    counts = [count_matches(one) for one in named]
    classes = nouns.count_classes([case for case, _ in rows], named)
    return {
        **sum_counts(counts).to_json(),
        "pq_interval": compute_interval(counts, seed=seed),
        "mean_of_classes": average_classes(classes),
    }


def _judge_captions(
    rows: Sequence[Judged], plain: Sequence[PictureMatches], *, meteor: bool, by_class: bool
) -> Json:
    """Pix2Cap's scores by both formulas."""
    matches = [match_segments(*row, agrees=_same_class) for row in rows] if by_class else plain
    with ExitStack() as stack:
        tool, missing = _open_meteor(stack) if meteor else (None, "left out")
        corrected = score_corrected(matches, tool)
    pairs = [pair for one in matches for pair in one.pairs]
    return {
        "official": score_as_released(matches),
        "corrected": corrected,
        "matched_share": round(compute_matched_share(matches), 4),
        "pairs": len(pairs),
        "pairs_with_references": sum(any(pair.true.references) for pair in pairs),
        **({"meteor_missing": missing} if missing else {}),
    }


def _open_meteor(stack: ExitStack) -> tuple[Meteor | None, str]:
    try:
        return stack.enter_context(Meteor()), ""
    except MissingExtraError as error:
        return None, str(error)


def _same_class(true: TrueSegment, predicted: PredictedSegment) -> bool:
    return true.category == predicted.category


def _count_segments(rows: Sequence[Judged]) -> Json:
    """How many segments have a caption, and why the others have none."""
    segments = [one for _, found in rows for one in found.segments]
    reasons = Counter(one.reason or "no reason given" for one in segments if not one.caption)
    return {
        "predicted": len(segments),
        "captioned": sum(bool(one.caption) for one in segments),
        "reasons": dict(sorted(reasons.items())),
        "true": sum(not one.crowd for case, _ in rows for one in case.segments),
    }
