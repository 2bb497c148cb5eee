"""From candidate masks to segments that do not overlap. Plain numpy, no weights.

Masks are logits, positive inside. `worth` is the expected IoU of a candidate with a true segment,
0 where that is likely to be below .5: what panoptic quality pays for.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ureca.models.runtime.segmentation.base import F32
from ureca.models.runtime.segmentation.panoptic.segments import MOST_SEGMENTS, U8


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """When a candidate becomes a segment. Tuned on one half of the training photographs.

    It needs `least_worth`, `least_share` of the picture, and `left_over` of its own mask must still
    be free. While there are free cells, a candidate of `cover_worth` with `cover_share` of the
    picture, half of itself, is a segment, too. What is left goes to the segment with the highest
    logit, unless all are below `rest_below`.
    """

    least_worth: float = 0.2
    left_over: float = 0.6
    least_share: float = 0.0015
    cover_worth: float = 0.1
    cover_share: float = 0.02
    rest_below: float = -6.0
    most: int = MOST_SEGMENTS


RULES = SelectionRules()


def choose_segments(logits: F32, worth: F32, rules: SelectionRules = RULES) -> list[int]:
    """Rows of the candidates that become segments, the one with the first claim first.

    `logits` f32 [N, h, w], `worth` f32 [N].
    """
    masks = np.asarray(logits > 0)
    areas = masks.sum((1, 2))
    free = np.ones(logits.shape[1:], np.bool_)
    least = max(1.0, rules.least_share * free.size)
    chosen: list[int] = []
    for row in map(int, np.argsort(-worth, kind="stable")):
        if worth[row] < rules.least_worth or len(chosen) >= rules.most:
            break
        left = np.count_nonzero(masks[row] & free)
        if left >= max(least, rules.left_over * areas[row]):
            chosen.append(row)
            free &= ~masks[row]
    cover = np.flatnonzero(worth >= rules.cover_worth)
    while len(chosen) < rules.most and len(cover):
        left = (masks[cover] & free).sum((1, 2))
        fits = (left >= rules.cover_share * free.size) & (left * 2 >= areas[cover]) & (left > 0)
        if not fits.any():
            break
        chosen.append(int(cover[np.where(fits, worth[cover] * left, 0).argmax()]))
        free &= ~masks[chosen[-1]]
    return chosen


def paint_segments(logits: F32, size: tuple[int, int], rules: SelectionRules = RULES) -> U8:
    """Numbers u8 [H, W] of `size`, n for the n-th of K masks f32 [K, h, w], 0 for the rest.

    The first mask that holds a pixel gets it; pixels of none go to the highest logit. Fragments
    below `least_share` of the picture join a neighbour.
    """
    height, width = size
    ids = np.zeros(size, np.uint8)
    highest = np.full(size, rules.rest_below, np.float32)
    nearest = np.zeros(size, np.uint8)
    for number, one in enumerate(logits, 1):
        large = cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR)
        np.copyto(ids, np.uint8(number), where=(large > 0) & (ids == 0))
        higher = large > highest
        np.copyto(nearest, np.uint8(number), where=higher)
        np.copyto(highest, large, where=higher)
    free = ids == 0
    ids[free] = nearest[free]
    return join_fragments(ids, max(1.0, rules.least_share * ids.size))


def join_fragments(ids: U8, least: float) -> U8:
    """Give connected pixels of one number, fewer than `least`, to the nearest larger ones."""
    small = np.zeros(ids.shape, np.bool_)
    for number in np.flatnonzero(np.bincount(ids.ravel(), minlength=256)).tolist():
        mask = (ids == number).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)  # a box costs less than the whole picture
        box = slice(y, y + height), slice(x, x + width)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask[box], ltype=cv2.CV_16U)
        lost = stats[:, cv2.CC_STAT_AREA] < least
        lost[0] = False
        if lost.any():
            small[box] |= lost[parts]
    if not small.any() or small.all():
        return ids
    _, places = cv2.distanceTransformWithLabels(
        small.view(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    kept = ~small
    owner = np.zeros(int(places.max()) + 1, np.uint8)
    owner[places[kept]] = ids[kept]
    return np.asarray(owner[places], np.uint8)
