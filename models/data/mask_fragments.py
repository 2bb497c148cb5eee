"""Fragments of a mask: what a segmenter cuts out when it takes a piece for the thing."""

from __future__ import annotations

import numpy as np

from ureca.datatypes import Mask
from ureca.errors import RegionError

LEAST_SHARE, MOST_SHARE = 0.1, 0.5
"""Of the region: less is a speck, more is the region with a ragged edge."""


def fragment_of(mask: Mask, rng: np.random.Generator) -> Mask:
    """A piece of a region, bool [H, W]: what lies on one side of a line in a random direction.

    Its share of the region, so its IoU with it, too, is drawn from 0.1 to 0.5; a region of few
    pixels gives at least one. Deterministic in `rng`. Raises `RegionError` for an empty mask.
    """
    ys, xs = np.nonzero(mask)
    if not ys.size:
        raise RegionError("the mask is empty: a region needs at least one pixel")
    angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(LEAST_SHARE, MOST_SHARE)
    along = np.cos(angle) * xs + np.sin(angle) * ys
    count = max(1, round(share * ys.size))
    kept = np.argpartition(along, count - 1)[:count]
    piece = np.zeros_like(mask)
    piece[ys[kept], xs[kept]] = True
    return piece
