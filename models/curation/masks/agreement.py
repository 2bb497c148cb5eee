"""Which outline of a region is kept: one that two teachers agree on, or a trusted one alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ureca.datatypes import Mask
from ureca.models.curation.masks.teachers import TeacherMask

Outcome = Literal["agreed", "alone", "unsure", "disagreed", "no_answer"]
"""How a region ended; the first two are kept."""


@dataclass(frozen=True, kw_only=True)
class AgreementRule:
    """`agree`: IoU from which two outlines are the same. `alone`: trust from which one outline is
    enough. `bonus`: what every further teacher that agrees adds to the trust.
    """

    agree: float = 0.7
    alone: float = 0.7
    bonus: float = 0.08

    def __post_init__(self) -> None:
        if not 0 < self.agree <= 1 or not 0 <= self.alone <= 1:
            raise ValueError(f"agree and alone must be in 0..1, got {self.agree}, {self.alone}")


@dataclass(frozen=True, slots=True)
class Decision:
    """The outline that is kept (None: none is), how sure it is, and why."""

    outcome: Outcome
    answer: TeacherMask | None = None
    score: float = 0.0
    teachers: tuple[str, ...] = ()


def decide(answers: Sequence[TeacherMask], rule: AgreementRule) -> Decision:
    """The most supported outline.

    The support of an outline is the trust of all that agree with it. Of those that agree, the most
    trusted one is kept.
    """
    given = [answer for answer in answers if answer.mask.any()]
    if not given:
        return Decision("no_answer")
    overlap = np.array([[compute_mask_iou(a.mask, b.mask) for b in given] for a in given])
    trust = np.array([answer.trust for answer in given])
    same = overlap >= rule.agree
    group = np.flatnonzero(same[int((same @ trust).argmax())])
    if len(group) > 1:
        best = given[int(group[trust[group].argmax()])]
        score = min(1.0, best.trust + rule.bonus * (len(group) - 1))
        return Decision("agreed", best, score, tuple(sorted({given[n].teacher for n in group})))
    best = given[int(trust.argmax())]
    if best.trust >= rule.alone:
        return Decision("alone", best, best.trust, (best.teacher,))
    return Decision("disagreed" if len(given) > 1 else "unsure")


def compute_mask_iou(one: Mask, other: Mask) -> float:
    """IoU of two masks bool [H, W]; 0 where both are empty."""
    both = int(np.count_nonzero(one & other))
    either = int(np.count_nonzero(one)) + int(np.count_nonzero(other)) - both
    return both / either if either else 0.0
