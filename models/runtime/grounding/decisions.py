"""From scores of candidates to an answer: nothing, one region, or several."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ureca.bundle import GroundingWeights
from ureca.models.runtime.grounding.features import Evidence
from ureca.models.runtime.grounding.geometry import F32

_ALIKE = 2.0
"""A superlative decides among the candidates that are at most so many nats below the best."""


def choose(place: F32, truth: F32, known: Evidence, weights: GroundingWeights) -> list[int]:
    """Indices of the answers, best first. `place` is minus infinity where none may be; `truth` is
    the probability that the text is true of a region.
    """
    possible = np.isfinite(place)
    if not possible.any() or truth[possible].max() < weights.min_present:
        return []
    phrase = known.phrase
    if phrase.extreme is not None:
        likely = possible & (place >= place.max() - _ALIKE)
        return [int(np.where(likely, known.layout.extreme(phrase.extreme), -np.inf).argmax())]
    most = _most(known)
    order = np.argsort(-place, kind="stable")
    chosen = [int(order[0])]
    for index in map(int, order[1:]):
        if len(chosen) >= most or not possible[index]:
            break
        close = place[index] >= place[chosen[0]] - weights.max_gap
        near = truth[index] >= weights.min_several and close
        if near and not _overlaps(known.layout.inside, index, chosen, weights.max_overlap):
            chosen.append(index)
    return chosen


def _most(known: Evidence) -> int:
    """How many answers a phrase admits: "the cup" one, "two cups" two, "cups" any number."""
    phrase = known.phrase
    if phrase.definite and phrase.count == 1:
        return 1
    return phrase.count if phrase.count > 1 else len(known.bag)


def _overlaps(
    inside: npt.NDArray[np.float32], index: int, chosen: list[int], at_most: float
) -> bool:
    shares = np.maximum(inside[index, chosen], inside[chosen, index])
    return bool((shares > at_most).any())
