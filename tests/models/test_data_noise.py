"""Distorted masks: never empty, repeatable, and as wrong as they are meant to be."""

import cv2
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given

from ureca.errors import RegionError
from ureca.models.data.mask_noise import distort_mask, make_noisy_mask


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def shapes(side):
    """Discs, boxes, bars, rings and scattered pieces on a square of `side` pixels."""
    unit, out = side / 160, []
    for draw in (
        lambda m: cv2.circle(m, (side // 2, side // 2), int(40 * unit), 1, -1),
        lambda m: cv2.rectangle(m, (3, 5), (int(90 * unit), int(60 * unit)), 1, -1),
        lambda m: cv2.line(m, (5, side - 9), (side - 9, 20), 1, max(2, int(9 * unit))),
        lambda m: cv2.circle(m, (side // 3, side // 2), int(30 * unit), 1, max(2, int(9 * unit))),
        lambda m: [cv2.circle(m, (int(40 * unit * i), 70), int(9 * unit), 1, -1) for i in (1, 3)],
        lambda m: cv2.ellipse(m, (side - 20, 30), (18, 7), 30, 0, 360, 1, -1),
    ):
        mask = np.zeros((side, side), np.uint8)
        draw(mask)
        out.append(mask.astype(bool))
    return out


masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@given(mask=masks, seed=st.integers(0, 2**32))
def test_any_mask_stays_a_mask(mask, seed):
    assume(mask.any())
    before = mask.copy()
    made = make_noisy_mask(mask, np.random.default_rng(seed))
    assert made.shape == mask.shape
    assert made.dtype == np.bool_
    assert made.any()
    assert (mask == before).all()
    assert (made == make_noisy_mask(mask, np.random.default_rng(seed))).all()


@pytest.mark.parametrize("side", [160, 480])
def test_the_overlap_is_that_of_a_tracker(side, rng):
    got = [iou(mask, make_noisy_mask(mask, rng)) for mask in shapes(side) for _ in range(40)]
    assert 0.65 < np.mean(got) < 0.74
    assert np.mean([0.5 <= value <= 0.9 for value in got]) > 0.8
    assert len(set(got)) > 200


@pytest.mark.parametrize("wanted", [0.5, 0.7, 0.9])
def test_drift_gives_the_overlap_that_is_asked_for(wanted, rng):
    got = [
        iou(mask, distort_mask(mask, rng, iou=wanted)) for mask in shapes(160) for _ in range(20)
    ]
    assert abs(np.mean(got) - wanted) < 0.05


@pytest.mark.parametrize("pixels", [1, 2, 3, 5])
def test_specks_never_vanish(pixels, rng):
    mask = np.zeros((20, 20), np.bool_)
    mask[7, 5 : 5 + pixels] = True
    assert all(
        distort_mask(mask, rng, iou=0.1).any() and make_noisy_mask(mask, rng).any()
        for _ in range(150)
    )


def test_part_of_a_larger_array_and_one_pixel_are_fine(rng):
    assert make_noisy_mask(np.ones((1, 1), np.bool_), rng).all()
    picture = np.zeros((60, 80), np.bool_)
    picture[20:50:, 30:60] = True
    assert make_noisy_mask(picture[::2, ::2], rng).any()
    assert make_noisy_mask(np.asfortranarray(picture), rng).any()


def test_wrong_masks_are_refused(rng):
    with pytest.raises(RegionError, match="empty"):
        make_noisy_mask(np.zeros((4, 4), np.bool_), rng)
    with pytest.raises(RegionError, match="uint8"):
        make_noisy_mask(np.ones((4, 4), np.uint8), rng)
    with pytest.raises(RegionError, match="overlap"):
        distort_mask(np.ones((4, 4), np.bool_), rng, iou=0.0)
