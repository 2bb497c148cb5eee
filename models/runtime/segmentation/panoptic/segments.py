"""A picture in segments: an id map, and what is known of each id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Mask

U8 = npt.NDArray[np.uint8]
SegmentKind = Literal["thing", "stuff"]
REST = 0
"""Number of the pixels that belong to no segment."""
MOST_SEGMENTS = 48


@dataclass(frozen=True, slots=True)
class PanopticSegment:
    """One segment: its number 1..255 in the map, and its expected IoU 0..1 with a true segment
    (0 where that is likely to be below .5).
    """

    number: int
    kind: SegmentKind
    score: float


@dataclass(frozen=True, slots=True)
class PanopticMap:
    """Every pixel of a picture belongs to one segment, or to the rest.

    `ids` u8 [H, W] holds numbers of `segments`, or `REST`. Things come first, then stuff. Each
    segment has at least one pixel, so the areas of all segments and of the rest sum to H x W.
    """

    ids: U8
    segments: tuple[PanopticSegment, ...]

    def mask(self, number: int) -> Mask:
        """The pixels bool [H, W] of one segment, or of the rest."""
        return np.asarray(self.ids == number, np.bool_)

    def areas(self) -> dict[int, int]:
        """Pixels of each segment, by its number; those of the rest last."""
        counts = np.bincount(self.ids.ravel(), minlength=256)
        return {n: int(counts[n]) for n in (*(one.number for one in self.segments), REST)}

    @property
    def coverage(self) -> float:
        """Share 0..1 of the pixels that belong to a segment."""
        return float(np.count_nonzero(self.ids) / self.ids.size)


def make_panoptic_map(ids: U8, found: list[tuple[SegmentKind, float]]) -> PanopticMap:
    """A map from an id map whose value n means `found[n - 1]`, kind and score. Segments without a
    pixel are left out; things come before stuff, each kind in its order.
    """
    there = np.bincount(ids.ravel(), minlength=len(found) + 1)
    order = sorted(
        (n for n in range(1, len(found) + 1) if there[n]), key=lambda n: found[n - 1][0] != "thing"
    )
    table = np.zeros(256, np.uint8)
    table[order] = np.arange(1, len(order) + 1, dtype=np.uint8)
    segments = (PanopticSegment(n, *found[old - 1]) for n, old in enumerate(order, 1))
    return PanopticMap(table[ids], tuple(segments))
