"""Pictures and masks must be cut by one decision, or mask tokens point at the wrong place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ureca.errors import RegionError
from ureca.models.config import VisionConfig
from ureca.models.preprocess import (
    Grid,
    choose_grid,
    compute_box_norm,
    make_mask_tiles,
    make_pixel_tiles,
)

VISION = VisionConfig(tile_px=64, mask_px=32, max_tiles=6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((448, 448), Grid(1, 1)),
        ((896, 448), Grid(2, 1)),
        ((300, 900), Grid(1, 3)),
        ((1200, 800), Grid(3, 2)),
        ((40, 40), Grid(1, 1)),  # a small square never earns a larger square grid
    ],
)
def test_grid_follows_the_aspect_ratio(size, expected):
    assert choose_grid(*size, tile_px=448, max_tiles=6) == expected


def test_a_large_square_earns_the_larger_grid():
    assert choose_grid(2000, 2000, tile_px=448, max_tiles=4) == Grid(2, 2)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), most=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_grid_never_exceeds_its_limit(width, height, most):
    grid = choose_grid(width, height, tile_px=64, max_tiles=most)
    assert 1 <= grid.cols * grid.rows <= most


def test_mask_tiles_lie_on_picture_tiles():
    """A white rectangle in the picture and the same rectangle as mask agree cell by cell."""
    mask = np.zeros((120, 180), bool)
    mask[20:90, 70:150] = True
    image = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2)
    grid = choose_grid(180, 120, tile_px=VISION.tile_px, max_tiles=VISION.max_tiles)
    assert grid == Grid(3, 2)
    pixels = make_pixel_tiles(image, grid, VISION)
    masks = make_mask_tiles(mask, grid, VISION)
    assert pixels.shape == (7, 3, 64, 64)
    assert masks.shape == (7, 32, 32)
    lit = pixels[:, 0].reshape(7, 32, 2, 32, 2).mean((2, 4)) > 0
    assert (lit == (masks > 0.5)).mean() > 0.97


def test_masks_are_zero_and_one_even_in_the_thumbnail():
    """The official code smooths its thumbnail and scales to 255; we do neither."""
    mask = np.random.default_rng(0).random((100, 200)) > 0.5
    tiles = make_mask_tiles(mask, Grid(2, 1), VISION)
    assert set(np.unique(tiles)) == {0.0, 1.0}


def test_a_single_pixel_survives_and_an_empty_mask_is_refused():
    mask = np.zeros((1080, 1920), bool)
    mask[1001, 7] = True
    assert make_mask_tiles(mask, Grid(1, 1), VISION).sum() == 1
    with pytest.raises(RegionError, match="empty"):
        make_mask_tiles(np.zeros((4, 4), bool), Grid(1, 1), VISION)
    with pytest.raises(RegionError, match="empty"):
        compute_box_norm(np.zeros((4, 4), bool))


def test_box_is_tight_and_normalised():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:8] = True
    assert compute_box_norm(mask) == pytest.approx([0.2, 0.2, 0.4, 0.5])


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_other_pictures_are_refused_by_name(image):
    with pytest.raises(RegionError, match="RGB image u8"):
        make_pixel_tiles(image, Grid(1, 1), VISION)
