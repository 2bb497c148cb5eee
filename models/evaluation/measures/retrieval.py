"""Measures uniqueness: whether a caption is closer to its own region's references than to its
neighbours'.

Candidates are all regions of the same image that have references, captioned or not. The score of a
candidate is the largest cosine between the caption and its references; ties are shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ureca.models.evaluation.measures.similarity import F32
from ureca.models.evaluation.test_set import EvaluationCase

_TIE = 1e-6
_VAGUE = frozenset({"object", "other"})


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    """Whether the own region was found (1, 0, or the share of a tie), and the chance level."""

    hit: float
    chance: float


def compute_similarities(caption: F32, references: F32) -> tuple[float, float]:
    """Return largest and mean cosine of a caption f32 [D] with references f32 [R, D]."""
    cosines = references @ caption
    return float(cosines.max()), float(cosines.mean())


def find_own(
    caption: F32, own: str, candidates: Sequence[str], references: Mapping[str, F32]
) -> RetrievalResult | None:
    """Retrieve among `candidates` (region ids, the own one included); None if it is alone."""
    if len(candidates) < 2:
        return None
    best = {key: float((references[key] @ caption).max()) for key in candidates}
    top = max(best.values())
    winners = [key for key, value in best.items() if value >= top - _TIE]
    return RetrievalResult(1 / len(winners) if own in winners else 0.0, 1 / len(candidates))


def find_same_type(case: EvaluationCase, others: Sequence[EvaluationCase]) -> list[str]:
    """Return ids of the own region and of those that share a type or the category with it."""
    kind = _find_kinds(case)
    return [
        other.region_id
        for other in others
        if other.region_id == case.region_id or (kind & _find_kinds(other)) - _VAGUE
    ]


def _find_kinds(case: EvaluationCase) -> set[str | None]:
    # No category at all is a kind of its own, as in the project's scorer.
    return {*case.record.types, case.record.category or None}


def stack_vectors(texts: Sequence[str], vectors: Mapping[str, F32]) -> F32:
    """Return the vectors of some texts as f32 [R, D]."""
    return np.stack([vectors[text] for text in texts])
