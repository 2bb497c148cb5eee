"""What was compared of the graph `score`, and whether it may be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoringAgreement:
    """How near a candidate's log-probabilities are to the checkpoint's, in nats per token.

    `same_best`: share of texts whose best region is the checkpoint's. `max_abs_step_diff`: against
    the steps of decoding, for each text's own region.
    """

    texts: int
    tokens: int
    max_abs_diff: float
    mean_abs_diff: float
    max_abs_step_diff: float
    same_best: float


@dataclass(frozen=True, kw_only=True)
class ScoringProof:
    """All comparisons of the graph `score`: in float32, of the files that ship, of another seed."""

    float32: ScoringAgreement
    bundle: ScoringAgreement
    control: ScoringAgreement
    int8_trials: dict[str, ScoringAgreement]


def failures(proof: ScoringProof, bounds: Mapping[str, float]) -> list[str]:
    """Why the graph may not be used; empty when it may."""
    bad, allowed = [], bounds["max_abs_logit_diff"]
    diffs = (proof.float32.max_abs_diff, proof.float32.max_abs_step_diff)
    bad += [
        f"score: float32 log-probabilities differ by {diff:.2e}, allowed {allowed}"
        for diff in diffs
        if not diff <= allowed  # NaN fails as well
    ]
    if not proof.bundle.same_best >= bounds["score_agreement"]:
        got = proof.bundle.same_best
        bad.append(f"score: the best region agrees to {got:.4f}: {bounds['score_agreement']}")
    if not proof.control.mean_abs_diff > 10 * proof.bundle.mean_abs_diff:
        bad.append("score: weights of another seed agree as well: the comparison proves nothing")
    return bad


def line(name: str, agreement: ScoringAgreement) -> str:
    """One line of a report."""
    return (
        f"score {name:<13} max|dlogP| {agreement.max_abs_diff:.2e}, mean "
        f"{agreement.mean_abs_diff:.2e}, steps {agreement.max_abs_step_diff:.2e}, same best region "
        f"{agreement.same_best:.3f} of {agreement.texts} texts"
    )
