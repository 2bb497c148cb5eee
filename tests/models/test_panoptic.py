"""Panoptic segmentation: selection, cover, fragments, captions of all segments."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ureca.models.runtime.pretrained import require_bundle
from ureca.models.runtime.segmentation.base import MaskPrediction
from ureca.models.runtime.segmentation.bundled import open_mask_head
from ureca.models.runtime.segmentation.mask_selection import Candidates
from ureca.models.runtime.segmentation.panoptic import find_segments
from ureca.models.runtime.segmentation.panoptic.caption_segments import caption_segments
from ureca.models.runtime.segmentation.panoptic.coco_format import make_segment_rows
from ureca.models.runtime.segmentation.panoptic.features import describe_candidates
from ureca.models.runtime.segmentation.panoptic.find_segments import arrange_predictions
from ureca.models.runtime.segmentation.panoptic.scorer import (
    load_scorer_weights,
    score_candidates,
)
from ureca.models.runtime.segmentation.panoptic.segments import make_panoptic_map
from ureca.models.runtime.segmentation.panoptic.selection import (
    SelectionRules,
    choose_segments,
    join_fragments,
    paint_segments,
)
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.testing import ScriptedEngine

GRID = (12, 16)


def draw(*boxes: tuple[int, int, int, int], low: float = -6) -> np.ndarray:
    """Logits of boxes x0, y0, x1, y1."""
    logits = np.full((len(boxes), *GRID), low, np.float32)
    for one, (x0, y0, x1, y1) in zip(logits, boxes, strict=True):
        one[y0:y1, x0:x1] = 6
    return logits


def worth(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


_BOXES = st.tuples(
    st.integers(0, 15), st.integers(0, 11), st.integers(1, 16), st.integers(1, 12), st.floats(0, 1)
)


@settings(deadline=None)
@given(
    st.lists(_BOXES, min_size=1, max_size=12),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(-9, 0),
)
def test_areas_of_segments_and_rest_sum_to_the_frame(rows, size, low) -> None:
    logits = draw(*((x, y, min(16, x + w), min(12, y + h)) for x, y, w, h, _ in rows), low=low)
    rules = SelectionRules(most=5)
    chosen = choose_segments(logits, worth(*(row[4] for row in rows)), rules)
    assert len(chosen) == len(set(chosen)) <= 5
    ids = paint_segments(logits[chosen], size, rules)
    found = make_panoptic_map(ids, [("stuff" if n % 2 else "thing", 0.5) for n in chosen])
    areas = found.areas()
    assert sum(areas.values()) == size[0] * size[1] == found.ids.size
    assert all(areas[one.number] > 0 for one in found.segments)
    assert list(areas)[-1] == 0  # the rest comes last
    kinds = [one.kind for one in found.segments]
    assert kinds == sorted(kinds, reverse=True)  # things, then stuff
    assert found.coverage == pytest.approx(1 - areas[0] / found.ids.size)
    masks = [found.mask(number) for number in areas]
    assert (np.sum(masks, axis=0) == 1).all()


def test_a_candidate_needs_worth_and_most_of_its_own_mask() -> None:
    logits = draw((0, 0, 8, 12), (0, 0, 9, 12), (8, 0, 16, 12), (10, 2, 12, 4))
    assert choose_segments(logits, worth(0.9, 0.8, 0.5, 0.15)) == [0, 2]
    assert choose_segments(logits, worth(0.1, 0.9, 0.05, 0.4)) == [1, 3]


def test_what_is_free_is_covered_by_the_best_that_is_left() -> None:
    logits = draw((0, 0, 6, 12), (6, 0, 16, 12), (6, 0, 16, 6))
    assert choose_segments(logits, worth(0.9, 0.15, 0.15)) == [0, 1]
    assert choose_segments(logits, worth(0.9, 0.05, 0.15)) == [0, 2]


def test_pixels_of_no_mask_go_to_the_nearest_logit_unless_all_are_far_below() -> None:
    logits = draw((0, 0, 8, 12), low=-3)
    assert (paint_segments(logits, GRID) == 1).all()
    logits = draw((0, 0, 8, 12), low=-9)
    assert paint_segments(logits, GRID)[0].tolist() == [1] * 8 + [0] * 8


def test_fragments_join_a_neighbour() -> None:
    ids = np.ones((20, 20), np.uint8)
    ids[:, 10:] = 2
    ids[2, 2] = 2
    joined = join_fragments(ids, 4)
    assert joined[2, 2] == 1
    assert (joined == 2).sum() == 200
    assert (join_fragments(ids, 500) == ids).all()  # nothing is large enough to join


def test_unused_numbers_are_left_out_and_things_come_first() -> None:
    ids = np.array([[1, 3], [3, 0]], np.uint8)
    found = make_panoptic_map(ids, [("stuff", 0.5), ("thing", 0.9), ("thing", 0.7)])
    assert [(one.number, one.kind, one.score) for one in found.segments] == [
        (1, "thing", 0.7),
        (2, "stuff", 0.5),
    ]
    assert found.ids.tolist() == [[2, 1], [1, 0]]


def test_features_are_finite_and_the_scorer_knows_them_all() -> None:
    logits = draw((0, 0, 8, 12), (0, 0, 9, 12), (3, 3, 3, 3), (10, 2, 12, 4))
    scores = worth(0.9, 0.5, 0.4, 0.2)
    found = Candidates(np.zeros((4, 1), np.float32), scores, np.array([1, 1, 2, 0]), scores * 0)
    features = describe_candidates(logits, found)
    assert all(np.isfinite(row).all() and row.shape == (4,) for row in features.values())
    weights = load_scorer_weights()
    assert set(weights.features) == set(features)
    for row in score_candidates(features, weights):
        assert row.shape == (4,)
        assert ((row >= 0) & (row <= 1)).all()


def test_predictions_of_any_segmenter_are_arranged() -> None:
    assert arrange_predictions([], (5, 6)).areas() == {0: 30}
    background, thing = draw((0, 0, 16, 12), (4, 4, 8, 8))
    found = arrange_predictions(
        [MaskPrediction(background, 0.5), MaskPrediction(thing, 0.9)], (24, 32)
    )
    assert [one.kind for one in found.segments] == ["thing", "stuff"]
    assert found.areas() == {1: 64, 2: 24 * 32 - 64, 0: 0}


def scene() -> np.ndarray:
    image = np.full((120, 160, 3), 128, np.uint8)
    image[20:60, 30:70] = (220, 40, 40)
    cv2.circle(image, (110, 70), 25, (40, 80, 220), -1)
    return image


def test_every_segment_gets_a_caption_from_one_encode() -> None:
    image, segmenter, engine = scene(), ScriptedSegmenter(), ScriptedEngine(max_regions=2)
    found = find_segments(segmenter, segmenter.encode(image), (120, 160))
    assert [one.kind for one in found.segments] == ["thing", "thing", "stuff"]
    captions = caption_segments(engine, image, found)
    assert list(captions) == [1, 2, 3]
    assert all(one.text and not one.reason for one in captions.values())
    rows = make_segment_rows(found, captions)
    assert [row["category_id"] for row in rows] == [1, 1, 2]
    assert sum(row["area"] for row in rows) == image.shape[0] * image.shape[1]
    assert all(row["description"] for row in rows)
    (row,) = make_segment_rows(found, {1: captions[1]})[2:]
    assert row["reason"] == "it was not captioned"


def test_the_shipped_head_covers_an_image_and_finds_its_things() -> None:
    image = scene()
    segmenter = open_mask_head(require_bundle())
    found = find_segments(segmenter, segmenter.encode(image), (120, 160))
    assert found.ids.shape == (120, 160)
    assert found.coverage > 0.97
    truth = (image != 128).any(2)
    truth[:, 80:] = False
    overlaps = [
        (found.mask(one.number) & truth).sum() / (found.mask(one.number) | truth).sum()
        for one in found.segments
    ]
    assert max(overlaps) > 0.6
    large = find_segments(segmenter, segmenter.encode(image), (1200, 1600))
    assert large.ids.shape == (480, 640)
