"""How likely a caption is right: a logistic model over what generating it left behind.

The geometric mean of the tokens' probabilities says how the language model likes its sentence, not
whether it is true. What the region's tokens say by themselves (the bag of `scoring.py`) is a second
witness. The weights are fitted on held-out regions whose names people gave
(`models/evaluation/confidence.py`), and no further pass of the language model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FEATURES = (
    *("bias", "score", "tokens", "bag", "clarity_bag", "clarity_word", "clarity_entropy"),
    *("area", "part"),
)
_LEAST = 1e-4


@dataclass(frozen=True, slots=True)
class CaptionEvidence:
    """What is known of one caption. `score` 0..1 and `tokens` as in `RowDone`; `bag` and `clarity`
    (three numbers) as in `TextScores`; `area` is the mask's share of the image.
    """

    text: str
    score: float
    tokens: int
    bag: float
    clarity: tuple[float, float, float]
    area: float

    def values(self) -> dict[str, float]:
        """The features by name."""
        return {
            "bias": 1.0,
            "score": math.log(max(self.score, _LEAST)),
            "tokens": float(self.tokens),
            "bag": self.bag,
            "clarity_bag": self.clarity[0],
            "clarity_word": self.clarity[1],
            "clarity_entropy": self.clarity[2],
            "area": math.log(self.area + _LEAST),
            "part": float(" of " in self.text),
        }


def estimate_confidence(weights: Mapping[str, float], evidence: CaptionEvidence) -> float:
    """Return the probability, 0..1, that the caption's noun is right."""
    values = evidence.values()
    odds = sum(weight * values[name] for name, weight in weights.items())
    return float(1 / (1 + np.exp(-np.clip(odds, -30, 30))))
