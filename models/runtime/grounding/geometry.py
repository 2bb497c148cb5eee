"""Computed geometry of candidate regions: size, place, overlap, and spatial relations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.models.runtime.grounding.phrases import Extreme, Relation

F32 = npt.NDArray[np.float32]

_WITHIN = 0.8
_SIDE_PX = 96
"""Everything is measured on masks of at most this long side."""


@dataclass(frozen=True, slots=True)
class Layout:
    """N candidates of one picture. `area` f32 [N] of the picture; `boxes` f32 [N, 4] xyxy and
    `centres` f32 [N, 2] xy, both 0..1 of width and height; `inside` f32 [N, N]: the share of row
    that lies in column; `iou` f32 [N, N]; `nested` f32 [N]: 1 for a region that lies in one of at
    least twice its size; `pieces` f32 [N]: connected pieces of at least a tenth of the region.
    """

    area: F32
    boxes: F32
    centres: F32
    inside: F32
    iou: F32
    nested: F32
    pieces: F32

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> Layout:
        """Measure masks bool [H, W] of one size, none of them empty."""
        step = max(1, -(-max(masks[0].shape) // _SIDE_PX))
        columns = np.stack([_shrunk(mask, step) for mask in masks])
        small = columns.reshape(len(masks), -1).astype(np.float32)
        sums = small.sum(axis=1)
        shared = small @ small.T
        union = sums[:, None] + sums[None] - shared
        inside, area = shared / sums[:, None], sums / small.shape[1]
        holders = (inside > _WITHIN) & (area[None] > 2 * area[:, None])
        return cls(
            area=area.astype(np.float32),
            boxes=np.stack([_box(column) for column in columns]),
            centres=_centres(columns),
            inside=inside,
            iou=shared / union,
            nested=holders.any(axis=1).astype(np.float32),
            pieces=np.array([_pieces(column) for column in columns], np.float32),
        )

    def relation(self, name: Relation) -> F32:
        """log g f32 [N, N]: how well row stands in the relation to column, at most 0."""
        gap = self.centres[:, None] - self.centres[None]
        size = self.boxes[:, 2:] - self.boxes[:, :2]
        reach = (size[:, None] + size[None]) / 2 + 1e-3
        right, down = np.moveaxis(gap / reach, -1, 0)
        apart = np.sqrt(right**2 + down**2)
        bottom = self.boxes[:, None, 3] - self.boxes[None, :, 3]
        lowered = bottom / reach[..., 1]
        scores = {
            "left": -right - 0.5 * np.abs(down),
            "right": right - 0.5 * np.abs(down),
            "above": -down - 0.5 * np.abs(right),
            "below": down - 0.5 * np.abs(right),
            "on": 2.0 - 2 * apart - 2 * np.maximum(lowered, 0),
            "in": 4 * self.inside - 1.0,
            "front": 2 * lowered + 1.0 - apart,
            "behind": -2 * lowered + 1.0 - apart,
            "near": 2.0 - 2 * apart,
            "of": 4 * self.inside - 1.0 - 2 * self._is_larger(),
            "and": 4 * self.inside.T - 1.0 - 2 * self._is_larger().T,
            "with": 4 * np.maximum(self.inside.T, self.inside) - 1.0,
        }
        score = np.asarray(scores[name], np.float32) * 2
        log_g = -np.log1p(np.exp(np.clip(-score, -30, 30)))
        np.fill_diagonal(log_g, -30.0)
        return np.asarray(log_g, np.float32)

    def _is_larger(self) -> F32:
        """1 f32 [N, N] where row is not smaller than column: no part of it."""
        return np.asarray(self.area[:, None] >= self.area[None], np.float32)

    def extreme(self, name: Extreme) -> F32:
        """A number f32 [N] that is largest for the region that is the most so, 0..1."""
        x, y = self.centres.T
        scores = {
            "left": 1 - x,
            "right": x,
            "above": 1 - y,
            "below": y,
            "large": np.sqrt(self.area),
            "small": 1 - np.sqrt(self.area),
            "front": self.boxes[:, 3],
            "back": 1 - self.boxes[:, 3],
        }
        return np.asarray(scores[name], np.float32)


def _box(small: Mask) -> F32:
    """xyxy, 0..1 of width and height."""
    ys, xs = np.flatnonzero(small.any(axis=1)), np.flatnonzero(small.any(axis=0))
    height, width = small.shape
    corners = (xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height)
    return np.array(corners, np.float32)


def _shrunk(mask: Mask, step: int) -> Mask:
    """Every `step`th pixel; at least one pixel is set."""
    small = mask[::step, ::step]
    if small.any():
        return small
    ys, xs = np.nonzero(mask)
    small = small.copy()
    small[ys[len(ys) // 2] // step, xs[len(xs) // 2] // step] = True
    return small


def _pieces(small: Mask) -> int:
    """Connected pieces of a mask that hold at least a tenth of it."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(small.view(np.uint8))
    sizes = stats[1:, cv2.CC_STAT_AREA]
    return int((sizes >= 0.1 * sizes.sum()).sum())


def _centres(small: npt.NDArray[np.bool_]) -> F32:
    """Mean places xy 0..1 of masks b1 [N, h, w]."""
    total = small.sum(axis=(1, 2))
    height, width = small.shape[1:]
    x = small.sum(axis=1) @ ((np.arange(width) + 0.5) / width) / total
    y = small.sum(axis=2) @ ((np.arange(height) + 0.5) / height) / total
    return np.stack([x, y], axis=1).astype(np.float32)
