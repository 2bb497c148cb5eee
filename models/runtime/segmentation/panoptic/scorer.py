"""The expected IoU of a candidate mask with a true segment, and whether it is a thing or stuff.

A network of one hidden layer over the features of `features.py`. Its weights are in `weights.json`;
`ureca.models.evaluation.panoptic.fitting` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from ureca.models.runtime.segmentation.base import F32

WEIGHTS = Path(__file__).with_name("weights.json")


class ScorerWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """H hidden units over F `features`: `mean` and `scale` [F], `hidden` [H][F] and `hidden_bias`
    [H], `out` [2][H] and `out_bias` [2] (worth, stuff). `figures` say how it was made.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    hidden: tuple[tuple[float, ...], ...]
    hidden_bias: tuple[float, ...]
    out: tuple[tuple[float, ...], ...]
    out_bias: tuple[float, ...]
    figures: dict[str, float] = {}


@lru_cache(maxsize=1)
def load_scorer_weights() -> ScorerWeights:
    """The weights that are installed with this module."""
    return msgspec.json.decode(WEIGHTS.read_bytes(), type=ScorerWeights)


def score_candidates(features: Mapping[str, F32], weights: ScorerWeights) -> tuple[F32, F32]:
    """Worth 0..1 f32 [N] and the probability of being stuff f32 [N], of features by name."""
    rows = np.stack([features[name] for name in weights.features], 1)
    x = (rows - _to_array(weights.mean)) / _to_array(weights.scale)
    middle = _mix(x, weights.hidden, weights.hidden_bias)
    worth, stuff = _squash(_mix(middle * _squash(middle), weights.out, weights.out_bias)).T
    return worth, stuff


def _mix(rows: F32, weights: Sequence[Sequence[float]], bias: Sequence[float]) -> F32:
    return np.asarray(rows @ np.array(weights, np.float32).T + _to_array(bias), np.float32)


def _to_array(values: Sequence[float]) -> F32:
    return np.array(values, np.float32)


def _squash(values: F32) -> F32:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))), np.float32)
