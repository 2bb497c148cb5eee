"""The measures of the DAVIS benchmark: region similarity J and boundary accuracy F.

As in the authors' evaluation (Perazzi et al., CVPR 2016): J is the intersection over union, F the
F-measure of boundary pixels that find a partner within 0.8 % of the picture's diagonal. The first
frame, whose mask is given, and the last one do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ureca.datatypes import Mask

_TOLERANCE = 0.008
"""Share of the diagonal by which boundaries may be apart."""


@dataclass(frozen=True, slots=True)
class Score:
    """Means over the frames that count, 0..1."""

    j: float
    f: float
    frames: int

    @property
    def jf(self) -> float:
        """The benchmark's headline: the mean of J and F."""
        return (self.j + self.f) / 2


def score(masks: Sequence[Mask], truths: Sequence[Mask]) -> Score:
    """J and F of a clip: masks bool [H, W] of all its frames against the true ones. Raises
    `ValueError` when fewer than three frames, or different numbers of them, are given.
    """
    if len(masks) != len(truths) or len(masks) < 3:
        raise ValueError(
            f"expected as many masks as truths, at least 3, got {len(masks)} and {len(truths)}"
        )
    pairs = list(zip(masks, truths, strict=True))[1:-1]
    return Score(
        j=float(np.mean([jaccard(mask, truth) for mask, truth in pairs])),
        f=float(np.mean([boundary_f(mask, truth) for mask, truth in pairs])),
        frames=len(pairs),
    )


def jaccard(mask: Mask, truth: Mask) -> float:
    """Intersection over union; 1 when both are empty."""
    union = np.count_nonzero(mask | truth)
    return float(np.count_nonzero(mask & truth) / union) if union else 1.0


def boundary_f(mask: Mask, truth: Mask) -> float:
    """F-measure of the boundary pixels; 1 when neither mask has any."""
    one, other = boundary(mask), boundary(truth)
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    radius = math.ceil(_TOLERANCE * math.hypot(*mask.shape))
    precision = float((one & _grown(other, radius)).sum() / one.sum())
    recall = float((other & _grown(one, radius)).sum() / other.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Mask) -> Mask:
    """Pixels that differ from their right, lower or lower right neighbour, as bool [H, W]."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.asarray((mask ^ right) | (mask ^ below) | (mask ^ across), np.bool_)


def _grown(edge: Mask, radius: int) -> Mask:
    ys, xs = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (ys**2 + xs**2 <= radius**2).astype(np.uint8)
    return np.asarray(cv2.dilate(edge.astype(np.uint8), disc) > 0, np.bool_)
