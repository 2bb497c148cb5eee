"""How sure a caption is, in words for people."""

from __future__ import annotations

from typing import Protocol


class HasConfidence(Protocol):
    """A caption with what is known about its truth."""

    @property
    def score(self) -> float | None:
        """Geometric mean of the tokens' probabilities."""

    @property
    def confidence(self) -> float | None:
        """Calibrated probability that the caption is right."""

    @property
    def unsure(self) -> bool:
        """Whether it is lower than the policy's `min_confidence`."""


def tell_confidence(caption: HasConfidence) -> str:
    """Return "62 %", "unsure, 31 %", or the score of a bundle that cannot tell, or ""."""
    if caption.confidence is not None:
        doubt = "unsure, " if caption.unsure else ""
        return f"{doubt}{caption.confidence:.0%}".replace("%", " %")
    return "" if caption.score is None else f"score {caption.score:.2f}"
