"""What is known of each candidate mask, as named numbers for `scorer.py`.

They come from the masks' scores and shapes and from how the candidates agree, so they do not depend
on the channels of one network.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ureca.models.runtime.segmentation.base import F32
from ureca.models.runtime.segmentation.mask_selection import (
    SLOTS,
    Candidates,
    compute_stability,
)

Flags = npt.NDArray[np.bool_]
_NESTED = 0.85
"""Share of a mask inside another one from which it is nested in it."""
_SIZE_STEP = 1.3
_SAME = 0.6
_SPREAD = (0.15, 0.85)
"""Two masks disagree if these shares of the one are in the other."""


def describe_candidates(logits: F32, found: Candidates) -> dict[str, F32]:
    """Features f32 [N] by name of N candidates with masks f32 [N, h, w], positive inside."""
    flat = logits.reshape(len(found), -1)
    masks = np.asarray(flat > 0)
    stability = compute_stability(flat)
    rows = {
        "score": found.scores,
        "stability": stability,
        "detected": found.detected,
        "is_detected": found.detected > 0,
        **{f"slot_{n}": found.slots == n for n in range(SLOTS)},
        **_describe_sharpness(flat, masks),
        **_describe_shape(masks.reshape(logits.shape)),
        **_describe_rivals(masks, np.maximum(found.scores * stability, 0), found),
    }
    return {name: np.asarray(row, np.float32) for name, row in rows.items()}


def _describe_sharpness(flat: F32, masks: Flags) -> dict[str, F32]:
    """How plainly the inside differs from the outside."""
    areas = np.maximum(masks.sum(1), 1)
    chance = np.clip(flat, -20, 20)  # in place from here on: these are millions of numbers
    np.negative(chance, out=chance)
    np.exp(chance, out=chance)
    chance += 1
    np.reciprocal(chance, out=chance)
    inside = _sum_where(chance, masks)
    return {
        "chance_inside": inside / areas,
        "logit_inside": _sum_where(flat, masks) / areas,
        "chance_outside": (chance.sum(1) - inside) / areas,
    }


def _sum_where(values: F32, masks: Flags) -> F32:
    """Sums [N] of values [N, cells] inside masks."""
    return np.asarray(np.einsum("ij,ij->i", values, masks, dtype=np.float32), np.float32)


def _describe_shape(masks: Flags) -> dict[str, F32]:
    """Size, outline and place of masks [N, h, w]."""
    height, width = masks.shape[1:]
    areas = masks.sum((1, 2))
    rows, columns = np.asarray(masks.any(2)), np.asarray(masks.any(1))
    top, left = rows.argmax(1), columns.argmax(1)
    bottom, right = height - rows[:, ::-1].argmax(1), width - columns[:, ::-1].argmax(1)
    boxes = np.maximum((bottom - top) * (right - left), 1)
    outline = (masks[:, 1:] != masks[:, :-1]).sum((1, 2))
    outline = outline + (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))
    share = areas / (height * width)
    return {
        "log_share": np.log(share + 1e-4),
        "root_share": np.sqrt(share),
        "box_filled": areas / boxes,
        "box_share": boxes / (height * width),
        "raggedness": outline / np.sqrt(np.maximum(areas, 1)),
        "at_top": masks[:, 0].mean(1),
        "at_bottom": masks[:, -1].mean(1),
        "at_left": masks[:, :, 0].mean(1),
        "at_right": masks[:, :, -1].mean(1),
        "middle_y": (top + bottom) / 2 / height,
    }


def _describe_rivals(masks: Flags, sure: F32, found: Candidates) -> dict[str, F32]:
    """How many candidates agree with each, hold it, are inside it, or cut it."""
    ones = masks.astype(np.float32)
    both = ones @ ones.T
    areas = ones.sum(1)
    overlap = both / np.maximum(areas[:, None] + areas - both, 1e-6)
    np.fill_diagonal(overlap, 0)
    inside = both / np.maximum(areas[:, None], 1)  # of the row, in the column
    larger = areas > _SIZE_STEP * areas[:, None]
    holders = larger & (inside > _NESTED)
    nested = larger.T & (inside.T > _NESTED)
    cutting = (inside > _SPREAD[0]) & (inside < _SPREAD[1]) & (_SPREAD[0] < inside.T)
    detected = found.detected

    def best(which: Flags, values: F32) -> F32:
        return np.asarray(np.where(which, values, 0).max(1, initial=0))

    close = overlap > 0.7
    agreeing = np.maximum(close.sum(1), 1)
    return {
        **{f"agree_{t}": np.log1p((overlap > t) @ sure) for t in (0.5, 0.7, 0.85)},
        **{f"agreeing_{t}": np.log1p((overlap > t).sum(1)) for t in (0.5, 0.7, 0.85)},
        **{f"agree_slot_{n}": close @ (found.slots == n) / agreeing for n in range(SLOTS)},
        "same_detected": (overlap * (overlap > _SAME) * detected).max(1, initial=0),
        "surer_twin": best(overlap > _SAME, sure) - sure,
        "holder": best(holders, sure),
        "holders": np.log1p(holders.sum(1)),
        "holder_detected": best(holders, detected),
        "nested": best(nested, sure),
        "nested_detected": best(nested, detected),
        "nested_density": np.log1p(nested.sum(1) / np.maximum(areas, 1)),
        "cut_by": best(cutting, sure),
        "cutting": cutting @ sure / (1 + cutting.sum(1)),
    }
