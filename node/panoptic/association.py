"""Which segment of a keyframe is which region: by overlap, all pairs together. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.node.tracking.linear_assignment import assign

U8 = npt.NDArray[np.uint8]
_LEAST_OVERLAP = 0.3
_SAME_KIND = 0.1
"""What a pair of one kind is worth more, as IoU."""


def associate(
    ids: U8, kinds: Mapping[int, str], regions: Mapping[str, Mask], known: Mapping[str, str]
) -> dict[int, str]:
    """Regions by the number of their segment; each has one at most.

    `ids` u8 [h, w] is the map, `kinds` says what its numbers are. `regions` are masks bool [h, w]
    on the same frame, `known` the kinds of some. Pairs with an IoU below .3 are none.
    """
    if not kinds or not regions:
        return {}
    numbers, names = list(kinds), list(regions)
    masks = np.stack([regions[rid].ravel() for rid in names]).astype(np.float32)
    segments = np.stack([(ids == n).ravel() for n in numbers]).astype(np.float32)
    both = segments @ masks.T
    union = segments.sum(1)[:, None] + masks.sum(1) - both
    overlap = both / np.maximum(union, 1)
    same = np.array([[known.get(rid) == kinds[n] for rid in names] for n in numbers])
    pairs = assign(-(overlap + _SAME_KIND * same).astype(np.float64))
    return {
        numbers[row]: names[column]
        for row, column in pairs
        if overlap[row, column] >= _LEAST_OVERLAP
    }


def put_on_top(ids: U8, masks: Mapping[int, Mask]) -> U8:
    """The map with masks bool [h, w] drawn over it, the smallest last."""
    drawn = ids.copy()
    for number in sorted(masks, key=lambda n: -np.count_nonzero(masks[n])):
        drawn[masks[number]] = number
    return drawn
