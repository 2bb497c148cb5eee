"""Where the weights of grounding come from: the bundle's manifest, or plain ones for fakes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ureca.bundle import GroundingWeights, load_manifest
from ureca.errors import BundleError
from ureca.models.runtime.confidence import FEATURES as CONFIDENCE_FEATURES
from ureca.models.runtime.grounding.features import FEATURES

PLAIN_WEIGHTS = GroundingWeights(
    place={"bag": 1.0, "side": 2.0}, presence={"bag": 1.0}, min_present=0.6
)
"""The bag-of-words score alone, not calibrated: for `ureca.testing.ScriptedEngine`."""


GROUNDING, ARRAYS = "grounding.json", "grounding.npz"
"""Of a checkpoint: the fitted weights, and the null regions and word means (`ScoringArrays`), which
the bundle has, too.
"""


def checkpoint_weights(folder: Path) -> GroundingWeights | None:
    """The fitted weights of a checkpoint, None if it has none. Raises `BundleError`."""
    path = folder / GROUNDING
    if not path.is_file() or not (folder / ARRAYS).is_file():
        return None
    try:
        weights = msgspec.json.decode(path.read_bytes(), type=GroundingWeights)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BundleError(f"{path} holds no grounding weights: {error}") from error
    return _known(weights, path)


def load_weights(folder: Path | str) -> GroundingWeights | None:
    """The section `grounding` of the bundle in `folder`, None if it has none.

    Raises `BundleError` for a feature that this version does not know.
    """
    weights = load_manifest(folder).grounding
    return _known(weights, folder) if weights else None


def _known(weights: GroundingWeights, source: Path | str) -> GroundingWeights:
    unknown = sorted(
        ({*weights.place, *weights.presence} - set(FEATURES))
        | ({*weights.confidence} - set(CONFIDENCE_FEATURES))
    )
    if unknown:
        raise BundleError(
            f"{source}: grounding uses the features {unknown}, this version knows "
            f"{sorted({*FEATURES, *CONFIDENCE_FEATURES})}: update ureca, or export the checkpoint "
            "again"
        )
    return weights
