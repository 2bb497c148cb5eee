"""Associates the masks of a frame with known regions: overlap, motion and colours.

Each known region is expected where its last step would take it. A pair's affinity mixes the overlap
with that place, the distance to it and the likeness of the colours; all pairs are decided together
(Hungarian method), so that crossing twins do not steal each other's masks. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask
from ureca.node.masks.color_histogram import F32, I32, histogram, similarity
from ureca.node.tracking.linear_assignment import assign

F64 = npt.NDArray[np.float64]

_OVERLAP, _NEAR, _COLOURS = 0.5, 0.2, 0.3
"""Weights of overlap, nearness and colours in the affinity."""
_REACH = 2.0
"""A region may be this many of its own diameters away from where it was expected."""
_OUT_OF_REACH = -1.0


@dataclass(frozen=True, slots=True)
class DetectionFeatures:
    """The features of one detection on a small image.

    `cover` f32 [h, w] is the share of each small pixel that the mask covers; `centre_yx` and
    `step_yx`, its motion since the previous frame, are in small pixels. `colours` is its colour
    histogram.
    """

    cover: F32
    centre_yx: tuple[float, float]
    area_px: float
    colours: F32
    step_yx: tuple[float, float] = (0.0, 0.0)

    @property
    def diameter_px(self) -> float:
        """Diameter of the disc of the same area."""
        return max(1.0, 2 * math.sqrt(self.area_px / math.pi))

    def resized(self, size: tuple[int, int]) -> DetectionFeatures:
        """The features on a small image of `size` (height, width) that shows the same."""
        down, across = size[0] / self.cover.shape[0], size[1] / self.cover.shape[1]
        cover = cv2.resize(self.cover, size[::-1], interpolation=cv2.INTER_LINEAR)
        return DetectionFeatures(
            np.asarray(cover, np.float32),
            (self.centre_yx[0] * down, self.centre_yx[1] * across),
            self.area_px * down * across,
            self.colours,
            (self.step_yx[0] * down, self.step_yx[1] * across),
        )

    def after(self, earlier: DetectionFeatures) -> DetectionFeatures:
        """These features with the motion since earlier ones of the same region."""
        (y, x), (y0, x0) = self.centre_yx, earlier.centre_yx
        return DetectionFeatures(
            self.cover, self.centre_yx, self.area_px, self.colours, (y - y0, x - x0)
        )


def extract_features(mask: Mask, bins: I32) -> DetectionFeatures:
    """Extract the features of `mask` bool [H, W], not empty, on a picture of colour bins i32 [h,
    w].
    """
    size = (bins.shape[1], bins.shape[0])
    cover = np.asarray(
        cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32
    )
    area = max(float(cover.sum()), 1e-6)
    ys, xs = np.arange(size[1]), np.arange(size[0])
    centre = float(cover.sum(axis=1) @ ys) / area, float(cover.sum(axis=0) @ xs) / area
    inside = cover > min(0.5, 0.5 * float(cover.max()))
    return DetectionFeatures(cover, centre, area, histogram(bins, inside))


def affinity(known: DetectionFeatures, seen: DetectionFeatures, *, missed: int = 0) -> float:
    """How well a detection fits a known region, 0..1, or -1 if it is too far away.

    A region that was `missed` for some frames may be as many steps further. It has no outline to
    overlap with, so only distance and colours count.
    """
    reach = _REACH * known.diameter_px * (1 + missed)
    expected = tuple(c + s for c, s in zip(known.centre_yx, known.step_yx, strict=True))
    away = min(math.dist(expected, seen.centre_yx), math.dist(known.centre_yx, seen.centre_yx))
    if away > reach:
        return _OUT_OF_REACH
    near, colours = 1 - away / reach, similarity(known.colours, seen.colours)
    if missed:
        return (_NEAR * near + _COLOURS * colours) / (_NEAR + _COLOURS)
    overlap = max(_overlap(known, seen, known.step_yx), _overlap(known, seen, (0.0, 0.0)))
    return _OVERLAP * overlap + _NEAR * near + _COLOURS * colours


def _overlap(
    known: DetectionFeatures, seen: DetectionFeatures, step_yx: tuple[float, float]
) -> float:
    """IoU of two covers, the first shifted by whole pixels."""
    dy, dx = round(step_yx[0]), round(step_yx[1])
    height, width = seen.cover.shape
    if abs(dy) >= height or abs(dx) >= width:
        return 0.0
    there = known.cover[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    here = seen.cover[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    common = float(np.minimum(there, here).sum())
    return common / max(known.area_px + seen.area_px - common, 1e-6)


def match(affinities: F64, *, least: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of f64 [N, M] whose sum is greatest, without pairs below `least`."""
    if not affinities.size:
        return []
    pairs = assign(-affinities)
    return [(row, column) for row, column in pairs if affinities[row, column] >= least]
