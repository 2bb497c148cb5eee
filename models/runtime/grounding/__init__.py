"""Text grounding: which of a picture's regions is a text true of, if any?"""

from ureca.bundle import GroundingWeights
from ureca.models.runtime.grounding.grounder import (
    Candidate,
    FoundRegion,
    Grounder,
    GroundingResult,
)
from ureca.models.runtime.grounding.phrases import Level
from ureca.models.runtime.grounding.weights import PLAIN_WEIGHTS, load_weights

__all__ = [
    "PLAIN_WEIGHTS",
    "Candidate",
    "FoundRegion",
    "Grounder",
    "GroundingResult",
    "GroundingWeights",
    "Level",
    "load_weights",
]
