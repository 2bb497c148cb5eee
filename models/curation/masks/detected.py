"""A detector as a teacher: things that it finds and that no region names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ureca.datatypes import Image, Mask
from ureca.models.curation.masks.prompted import get_corners
from ureca.models.curation.masks.teachers import FoundMask, TeacherMask
from ureca.models.data.regions import RegionRecord
from ureca.models.runtime.segmentation.base import F32, EverythingSegmenter
from ureca.models.runtime.segmentation.detectors.layouts import compute_box_ious

_TRUST = 0.69
"""IoU of the mask head's masks with the truth, for boxes that are right (COCO val2017,
`docs/masks.md`).
"""
_NAMED = 0.4
"""Overlap of two boxes from which they show the same thing. People's boxes are looser than a
detector's.
"""


class DetectorTeacher:
    """A `MaskTeacher` from a segmenter whose masks have classes (`docs/detectors.md`)."""

    def __init__(self, segmenter: EverythingSegmenter) -> None:
        self.name, self._segmenter = segmenter.name, segmenter

    def outline(self, image: Image, regions: Sequence[RegionRecord]) -> list[TeacherMask | None]:
        """See `MaskTeacher`: it knows none, because its boxes are no better than people's."""
        return [None] * len(regions)

    def discover(self, image: Image, regions: Sequence[RegionRecord]) -> list[FoundMask]:
        """See `MaskTeacher`: things with a class whose box is that of no region."""
        size = image.shape[0], image.shape[1]
        named = np.array([get_corners(region) for region in regions], np.float32).reshape(-1, 4)
        found: list[FoundMask] = []
        for one in self._segmenter.everything(self._segmenter.encode(image)):
            mask = one.mask(size)
            if not one.label or not mask.any():
                continue
            if compute_box_ious(_find_box(mask), named).max(initial=0) < _NAMED:
                found.append(FoundMask(TeacherMask(mask, _TRUST, self.name), category=one.label))
        return found


def _find_box(mask: Mask) -> F32:
    """The box xyxy f32 [4] of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
