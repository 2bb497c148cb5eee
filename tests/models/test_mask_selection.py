"""Choosing masks: NMS, everything, panoptic, the canvas and the tidy outline."""

from __future__ import annotations

import numpy as np
import pytest

from ureca.errors import RegionError
from ureca.models.runtime.segmentation import mask_selection as selection
from ureca.models.runtime.segmentation.canvas import make_canvas_pixels, place
from ureca.models.runtime.segmentation.tidy import tidy


def blocks(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """Logits +-6 of boxes x0, y0, x1, y1."""
    logits = np.full((len(boxes), *size), -6, np.float32)
    for one, (x0, y0, x1, y1) in zip(logits, boxes, strict=True):
        one[y0:y1, x0:x1] = 6
    return logits


def candidates(scores: list[float], slots: list[int]) -> selection.Candidates:
    count = len(scores)
    kernels = np.arange(count, dtype=np.float32)[:, None]
    known = np.array(scores, np.float32)
    return selection.Candidates(kernels, known, np.array(slots), np.zeros_like(known))


def test_the_best_of_every_four_points_is_kept_with_its_slot() -> None:
    scores = np.zeros((2, 4, 3), np.float32)
    scores[1, 0, 0], scores[0, 3, 2] = 0.9, 0.8
    kernels = np.arange(24, dtype=np.float32).reshape(2, 4, 3, 1)
    found = selection.pick_best_of_cells(kernels, scores)
    assert len(found) == 6
    assert found.slots.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.scores[0] == pytest.approx(0.9)
    assert found.kernels[0, 0] == kernels[1, 0, 0, 0]
    assert found.kernels[5, 0] == kernels[0, 3, 2, 0]


def test_twins_lose_against_the_surer_one_and_neighbours_do_not() -> None:
    logits = blocks((0, 0, 6, 6), (0, 0, 6, 5), (8, 0, 14, 6)).reshape(3, -1)
    overlap = selection.compute_pairwise_iou(logits > 0)
    final = selection.apply_matrix_nms(overlap, np.array([0.9, 0.8, 0.7], np.float32))
    assert final[0] == pytest.approx(0.9)
    assert final[2] == pytest.approx(0.7)
    assert final[1] < 0.2


def test_everything_keeps_quotas_and_small_things_beside_large_sure_ones() -> None:
    boxes = [(0, 0, 16, 12), (0, 0, 16, 11), (1, 1, 3, 3), (5, 5, 8, 8), (5, 5, 8, 9), (9, 2, 9, 2)]
    logits = blocks(*boxes).reshape(len(boxes), -1)
    chosen = selection.choose_everything(
        candidates([0.95, 0.94, 0.3, 0.5, 0.4, 0.9], [2, 2, 0, 1, 1, 1]), logits, quotas=(1, 1, 1)
    )
    assert chosen.tolist() == [0, 3, 2]  # an empty mask is none


def test_boxes_that_repeat_one_are_dropped() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    kept = selection.apply_box_nms(
        boxes, np.array([0.5, 0.9, 0.1], np.float32), overlap=0.65, most=2
    )
    assert kept.tolist() == [1, 2]


def test_the_innermost_pixel_is_far_from_outline_and_edge() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[0:9, 0:9] = True
    mask[12:14, 0:30] = True
    assert selection.find_innermost_pixel(mask) == (4.5, 4.5)


@pytest.mark.parametrize("size", [(480, 640), (333, 500), (500, 333), (40, 30)])
def test_masks_come_back_from_the_canvas_where_they_were(size) -> None:
    image = np.zeros((*size, 3), np.uint8)
    height, width = size
    image[height // 4 : height // 2, width // 5 : width // 2] = 255
    pixels, where = make_canvas_pixels(image, (384, 512))
    assert pixels.shape == (3, 384, 512)
    quarter = pixels[0].reshape(96, 4, 128, 4).mean((1, 3))
    back = where.cropped(quarter)
    assert abs(back.shape[0] - where.filled[0] / 4) <= 1
    full = np.asarray(selection.cv2.resize(back, (width, height))) > 0
    wanted = image[..., 0] > 0
    assert (full & wanted).sum() / (full | wanted).sum() > 0.93
    with pytest.raises(RegionError, match="expected a picture"):
        place((0, 5), (384, 512))


def test_tidy_moves_an_outline_to_the_edge_and_stays_in_the_box() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(20, 60, (120, 160, 3)).astype(np.uint8)
    truth = np.zeros((120, 160), np.bool_)
    truth[30:90, 40:110] = True
    image[truth] = rng.integers(180, 230, (int(truth.sum()), 3))
    soft = np.full(truth.shape, 0.2, np.float32)
    soft[24:80, 34:100] = 0.8
    soft[45:70, 60:90] = 0.99
    plain = soft > 0.5
    found = tidy(image, soft, box_xyxy_px=(40, 30, 110, 90))

    def overlap(mask: np.ndarray) -> float:
        return float((mask & truth).sum() / (mask | truth).sum())

    assert overlap(found) > 0.95 > overlap(plain)
    assert not found[:28].any()
    assert np.array_equal(tidy(image, np.zeros_like(soft)), np.zeros_like(truth))


@pytest.mark.parametrize("seed", range(8))
def test_boxes_that_are_left_are_those_of_the_plain_rule(seed) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (60, 2))
    boxes = np.concatenate((low, low + rng.uniform(1, 30, (60, 2))), 1).astype(np.float32)
    scores = rng.permutation(60).astype(np.float32)
    kept: list[int] = []
    for row in np.argsort(-scores)[: 8 * 7]:
        free = all(selection.compute_box_iou(boxes[row], boxes[one]) < 0.4 for one in kept)
        if free and len(kept) < 7:
            kept.append(int(row))
    assert selection.apply_box_nms(boxes, scores, overlap=0.4, most=7).tolist() == kept
