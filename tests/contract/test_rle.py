from __future__ import annotations

import numpy as np
import pytest

from ureca.datatypes import Rle
from ureca.errors import RegionError
from ureca.protocol import rle


def _masks(rng):
    for _ in range(60):
        height, width = rng.integers(1, 70, 2)
        yield rng.random((height, width)) < rng.random()
    blob = np.zeros((120, 200), bool)
    blob[30:90, 50:170] = True
    yield blob
    for shape in ((1, 1), (1, 9), (9, 1), (40, 30)):
        yield np.zeros(shape, bool)
        yield np.ones(shape, bool)
    wide = np.zeros((3, 40_000), bool)
    wide[:, 39_999] = True
    yield wide


def test_same_code_as_pycocotools(rng):
    coco = pytest.importorskip("pycocotools.mask")
    for mask in _masks(rng):
        ours = rle.encode(mask)
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert ours.counts.encode() == theirs["counts"]
        assert list(ours.size) == theirs["size"]
        assert np.array_equal(rle.decode(ours), mask)
        assert np.array_equal(coco.decode({"size": ours.size, "counts": ours.counts}), mask)


def test_decoded_masks_are_plain_c_arrays(rng):
    for mask in _masks(rng):
        decoded = rle.decode(rle.encode(mask))
        assert decoded.dtype == bool
        assert decoded.flags.c_contiguous
        assert np.array_equal(decoded, mask)


@pytest.mark.parametrize(
    ("size", "counts", "words"),
    [
        ((0, 5), "0", "at least 1x1"),
        ((-3, -4), "<", "at least 1x1"),
        ((1 << 14, 1 << 14), "0", "exceeds"),
        ((2, 2), "", "empty"),
        ((2, 2), "5", "add up to 5"),
        ((2, 2), "é", "ASCII"),
        ((2, 2), " ", "outside"),
        ((2, 2), "p", "outside"),
        ((2, 2), "P", "cut off"),
        ((2, 2), "P" * 8 + "0", "groups"),
        ((2, 2), "O5", "negative"),
        ((2, 2), "0" * 10_000, "add up"),
    ],
)
def test_broken_codes_name_their_fault(size, counts, words):
    with pytest.raises(RegionError, match=words):
        rle.decode(Rle(size=size, counts=counts))


def test_limits_are_the_callers():
    mask = np.indices((8, 8)).sum(axis=0) % 2 == 0
    code = rle.encode(mask)
    assert np.array_equal(rle.decode(code, max_pixels=64, max_runs=65), mask)
    with pytest.raises(RegionError, match="exceeds 63 pixels"):
        rle.decode(code, max_pixels=63)
    with pytest.raises(RegionError, match="at most 20"):
        rle.decode(code, max_runs=20)


@pytest.mark.parametrize("mask", [np.zeros((0, 3), bool), np.zeros(4, bool), np.zeros((2, 2), int)])
def test_only_masks_are_encoded(mask):
    with pytest.raises(RegionError, match="expected a mask"):
        rle.encode(mask)
