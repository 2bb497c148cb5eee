"""Parts of segments: masks inside them, the surest first, with the segment of each."""

from __future__ import annotations

import numpy as np

from ureca.models.runtime.segmentation.base import MaskPrediction
from ureca.models.runtime.segmentation.panoptic import PanopticMap, PanopticSegment
from ureca.models.runtime.segmentation.panoptic.find_parts import PartRules, find_parts

SIZE = (40, 60)


def box(x0: int, y0: int, x1: int, y1: int, score: float) -> MaskPrediction:
    logits = np.full((20, 30), -6, np.float32)
    logits[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2] = 6
    return MaskPrediction(logits, score)


class Boxes:
    """A segmenter that finds what it was given."""

    name = "boxes"

    def __init__(self, *found: MaskPrediction) -> None:
        self.found = list(found)

    def everything(self, _encoded: object) -> list[MaskPrediction]:
        return self.found


def whole() -> PanopticMap:
    """A mug at the left, a book at the right, a wall around them."""
    ids = np.full(SIZE, 3, np.uint8)
    ids[10:30, 4:24], ids[10:30, 40:56] = 1, 2
    kinds = ("thing", "thing", "stuff")
    return PanopticMap(ids, tuple(PanopticSegment(n, k, 0.9) for n, k in enumerate(kinds, 1)))


def test_a_part_lies_inside_its_segment_and_the_surest_come_first() -> None:
    handle, body = box(18, 12, 24, 26, 0.9), box(4, 10, 16, 30, 0.8)
    twin, speck, beside = box(4, 10, 16, 28, 0.7), box(4, 10, 6, 12, 0.9), box(30, 10, 38, 30, 0.9)
    mug, unsure = box(4, 10, 24, 30, 0.95), box(42, 12, 48, 20, 0.1)
    found = find_parts(Boxes(handle, body, twin, speck, beside, mug, unsure), None, whole())
    assert [found.parents[one.number] for one in found.found.segments] == [1, 1]
    ids = found.found.ids
    assert (ids[14, 20], ids[20, 8], ids[20, 45], ids[5, 5]) == (1, 2, 0, 0)
    assert not ids[whole().ids != 1].any()  # nothing beside the mug
    assert sum(found.found.areas().values()) == ids.size


def test_only_the_segments_that_are_asked_for_have_parts() -> None:
    boxes = Boxes(box(18, 12, 24, 26, 0.9), box(42, 12, 48, 20, 0.9), box(0, 0, 30, 8, 0.9))
    everything = find_parts(boxes, None, whole())
    assert sorted(everything.parents.values()) == [1, 2]
    assert set(find_parts(boxes, None, whole(), of=[2]).parents.values()) == {2}
    assert set(find_parts(boxes, None, whole(), of=[3]).parents.values()) == {3}
    assert not find_parts(boxes, None, whole(), of=[]).parents
    assert not find_parts(boxes, None, whole(), rules=PartRules(least_worth=0.95)).parents


def test_a_segmenter_that_finds_nothing_finds_no_parts() -> None:
    found = find_parts(Boxes(), None, whole())
    assert not found.parents
    assert not found.found.ids.any()


def test_all_masks_of_a_segmenter_are_asked_where_it_gives_them() -> None:
    class More(Boxes):
        def candidates(self, _encoded: object) -> list[MaskPrediction]:
            return [box(42, 12, 48, 20, 0.9)]

    found = find_parts(More(box(18, 12, 24, 26, 0.9)), None, whole())
    assert list(found.parents.values()) == [2]
