"""Measures of masks: plain functions of bool masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask

THRESHOLDS = tuple(np.arange(0.5, 0.96, 0.05).round(2).tolist())
F64 = npt.NDArray[np.float64]


def compute_iou(one: Mask, other: Mask) -> float:
    """IoU of two masks of one size; 0 where both are empty."""
    both = int(np.count_nonzero(one & other))
    either = int(np.count_nonzero(one | other))
    return both / either if either else 0.0


def compute_iou_matrix(ones: Sequence[Mask], others: Sequence[Mask]) -> F64:
    """IoUs [len(ones), len(others)]."""
    if not ones or not others:
        return np.zeros((len(ones), len(others)))
    a = np.stack([mask.ravel() for mask in ones]).astype(np.float32)
    b = np.stack([mask.ravel() for mask in others]).astype(np.float32)
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1)[None] - both
    return np.asarray(both / np.maximum(either, 1), np.float64)


def compute_average_recall(best_ious: Sequence[float]) -> float:
    """Mean recall over the thresholds .5, .55 ... .95, of each true mask's best IoU."""
    if not best_ious:
        return float("nan")
    found = np.asarray(best_ious)
    return float(np.mean([(found >= threshold).mean() for threshold in THRESHOLDS]))
