"""Choosing kernels of one pass: everything, clicks and boxes. Plain numpy, no weights.

All masks are logits on a map; scores are expected IoUs 0..1. Slots: 0 part, 1 thing, 2 whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

SLOTS = 3
QUOTAS = (24, 24, 16)
"""Parts, things and wholes of `choose_everything`."""
_STABLE = 1.0
_LEAST_CELLS = 2


@dataclass(frozen=True, slots=True)
class Candidates:
    """N kernels f32 [N, C + 5], their scores f32 [N], slots i64 [N], and the score f32 [N] of the
    detected box that each comes from (0: none).
    """

    kernels: F32
    scores: F32
    slots: I64
    detected: F32

    def __len__(self) -> int:
        return len(self.scores)

    def taken(self, rows: I64) -> Candidates:
        """Some of them, in that order."""
        kept = self.kernels[rows], self.scores[rows], self.slots[rows], self.detected[rows]
        return Candidates(*kept)


def pick_best_of_cells(kernels: F32, scores: F32) -> Candidates:
    """The best of each slot in every 2 x 2 points of a grid: kernels [H, W, 3, C + 5], scores
    [H, W, 3], H and W even.
    """
    height, width, slots, size = kernels.shape
    blocks = (height // 2, 2, width // 2, 2, slots)
    by_block = scores.reshape(blocks).transpose(0, 2, 4, 1, 3).reshape(-1, 4)
    rows = kernels.reshape(*blocks, size).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 4, size)
    best = by_block.argmax(1)
    each = np.arange(len(best))
    scores = by_block[each, best]
    return Candidates(rows[each, best], scores, each % slots, np.zeros_like(scores))


def compute_stability(logits: F32) -> F32:
    """Of N masks [N, cells]: the share of cells above +1 among those above -1."""
    wide = np.count_nonzero(logits > -_STABLE, axis=1)
    narrow = np.count_nonzero(logits > _STABLE, axis=1)
    return np.asarray(narrow / np.maximum(wide, 1), np.float32)


def compute_pairwise_iou(masks: npt.NDArray[np.bool_]) -> F32:
    """IoU [N, N] of masks bool [N, cells]."""
    flat = masks.astype(np.float32)
    both = flat @ flat.T
    area = flat.sum(1)
    return np.asarray(both / np.maximum(area[:, None] + area[None] - both, 1e-6), np.float32)


def apply_matrix_nms(overlap: F32, scores: F32) -> F32:
    """Scores after matrix NMS (arXiv 2003.10152, linear): rows must be in falling order of
    `scores`; each is lowered by the surer ones that it overlaps.
    """
    above = np.triu(overlap, 1)
    compensation = above.max(0, initial=0.0)
    decay = (1 - above) / np.maximum(1 - compensation[:, None], 1e-6)
    decay = np.where(np.tri(len(scores), dtype=bool), 1.0, decay).min(0, initial=1.0)
    return np.asarray(scores * decay, np.float32)


def choose_everything(
    candidates: Candidates, logits: F32, *, quotas: Sequence[int] = QUOTAS
) -> I64:
    """Rows of the masks that stand for a picture, best first.

    `logits` [N, cells] are coarse masks of all candidates. Nothing is cut by score before NMS: the
    surest kernels are table and wall.
    """
    scores = candidates.scores * compute_stability(logits)
    masks = logits > 0
    alive = np.flatnonzero(masks.sum(1) >= _LEAST_CELLS)
    order = alive[np.argsort(-scores[alive], kind="stable")]
    final = apply_matrix_nms(compute_pairwise_iou(masks[order]), scores[order])
    ranked = order[np.argsort(-final, kind="stable")]
    rows = []
    for slot, quota in enumerate(quotas):
        rows += list(ranked[candidates.slots[ranked] == slot][:quota])
    place = {int(row): n for n, row in enumerate(ranked)}
    return np.array(sorted(rows, key=lambda row: place[int(row)]), np.int64)


def compute_box_agreement(logits: F32, box_cells: tuple[float, float, float, float]) -> F32:
    """IoU of the tight boxes of N masks [N, h, w] with one box xyxy in cells."""
    found = []
    for mask in logits > 0:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            found.append(0.0)
            continue
        tight = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        found.append(compute_box_iou(tight, box_cells))
    return np.array(found, np.float32)


def compute_box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """IoU of two boxes xyxy."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, across) * max(0.0, down)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if areas > both else 0.0


def apply_box_nms(boxes: F32, scores: F32, *, overlap: float, most: int) -> I64:
    """Rows of boxes [N, 4] xyxy that are left by greedy NMS, best first."""
    left = np.argsort(-scores, kind="stable")[: 8 * most]
    kept: list[int] = []
    while len(left) and len(kept) < most:
        kept.append(int(left[0]))
        left = left[1:]
        left = left[_compute_box_ious(boxes[kept[-1]], boxes[left]) < overlap]
    return np.array(kept, np.int64)


def _compute_box_ious(one: F32, others: F32) -> F32:
    """IoU [N] of a box xyxy with boxes [N, 4]."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    both = np.maximum(sides, 0).prod(1)
    areas = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return np.asarray(np.where(areas > both, both / np.maximum(areas - both, 1e-12), 0), np.float32)


def find_innermost_pixel(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Centre (x, y) of the pixel of a mask that is farthest from the outline; the picture's edge
    counts as outline.
    """
    inside = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(column) - 0.5, float(row) - 0.5
