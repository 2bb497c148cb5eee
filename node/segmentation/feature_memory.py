"""Finds stored regions in the features of a new image, cell by cell.

The nearest cells in the stored images decide how far a cell of the new image belongs to a region (k
nearest neighbours by cosine, as in label propagation over self-supervised features: Jabri et al.
2020, Caron et al. 2021). Two views of each region are stored: the first one, which cannot drift,
and the newest confirmed one. The rest of these images is the negative example, which separates
look-alikes.

The memory of one stream; its size depends only on the number of regions. Deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from ureca.node.masks.color_histogram import F32

_NEIGHBOURS = 5
_TEMPERATURE = 0.07
_MAX_ANCHORS = 3
"""First looks at regions that began at different times; beyond this the oldest picture serves."""


@dataclass(slots=True)
class RememberedFeatures:
    """A picture remembered: unit features f32 [C, n], and per region the share 0..1 of each of the
    n cells that it covers, f32 [n].
    """

    features: F32
    covers: dict[str, F32] = field(default_factory=dict)


class FeatureMemory:
    """The stored features of the regions of one stream."""

    def __init__(self) -> None:
        self._anchors: list[RememberedFeatures] = []
        self._newest: RememberedFeatures | None = None

    def remember(self, features: F32, covers: Mapping[str, F32]) -> None:
        """The regions `covers`, soft masks f32 [h, w] of any size, are confirmed on the picture of
        `features` f32 [C, h, w].
        """
        size = (features.shape[2], features.shape[1])
        cells = {
            rid: np.asarray(
                cv2.resize(cover, size, interpolation=cv2.INTER_AREA), np.float32
            ).reshape(-1)
            for rid, cover in covers.items()
        }
        if not cells:
            return
        entry = RememberedFeatures(unit(features), cells)
        known = {rid for anchor in self._anchors for rid in anchor.covers}
        if not cells.keys() <= known and len(self._anchors) < _MAX_ANCHORS:
            self._anchors.append(entry)
        self._newest = entry

    def keep(self, rids: frozenset[str]) -> None:
        """Forget all regions but these."""
        for entry in self._entries():
            entry.covers = {rid: cells for rid, cells in entry.covers.items() if rid in rids}
        self._anchors = [entry for entry in self._anchors if entry.covers]
        if self._newest is not None and not self._newest.covers:
            self._newest = None

    def recall(self, features: F32) -> dict[str, F32]:
        """Where the remembered regions are on the picture of `features` f32 [C, h, w]: 0..1 for
        each cell, f32 [h, w].
        """
        here = unit(features)
        found: dict[str, list[F32]] = {}
        for entry in self._entries():
            nearest, weight = _nearest(entry.features, here)
            for rid, cells in entry.covers.items():
                found.setdefault(rid, []).append((weight * cells[nearest]).sum(axis=0))
        size = features.shape[1:]
        return {rid: np.mean(maps, axis=0).reshape(size) for rid, maps in found.items()}

    def _entries(self) -> list[RememberedFeatures]:
        newest = self._newest
        is_extra = newest is not None and all(newest is not anchor for anchor in self._anchors)
        return [*self._anchors, *([newest] if is_extra and newest is not None else [])]


def unit(features: F32) -> F32:
    """Features f32 [C, h, w] as unit vectors f32 [C, h * w], without what all cells share."""
    flat = features.reshape(features.shape[0], -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=0), 1e-6), np.float32)


def _nearest(there: F32, here: F32) -> tuple[npt.NDArray[np.intp], F32]:
    """For each cell of `here` [C, n] the cells of `there` [C, m] most like it, and their weights,
    which sum to one: both [k, n].
    """
    likeness = here.T @ there
    rows = np.arange(len(likeness))
    nearest, best = [], []
    for _ in range(min(_NEIGHBOURS, likeness.shape[1])):  # five maxima: faster than a partition
        cell = likeness.argmax(axis=1)
        nearest.append(cell)
        best.append(likeness[rows, cell])
        likeness[rows, cell] = -np.inf
    found = np.stack(best)
    weight = np.exp((found - found[0]) / _TEMPERATURE)
    return np.stack(nearest), np.asarray(weight / weight.sum(axis=0), np.float32)
