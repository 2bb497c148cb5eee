from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ureca.datatypes import Rle
from ureca.errors import RegionError
from ureca.protocol import rle

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(masks)
def test_masks_round_trip(mask):
    code = rle.encode(mask)
    assert code.size == mask.shape
    assert np.array_equal(rle.decode(code), mask)
    runs = rle.check(code)
    assert int(runs[1::2].sum()) == int(mask.sum())
    assert (runs[1:] > 0).all()


@given(
    st.tuples(st.integers(-2, 50), st.integers(-2, 50)),
    st.text(alphabet=st.characters(min_codepoint=40, max_codepoint=120), max_size=30),
)
def test_any_text_is_a_mask_or_a_region_error(size, counts):
    try:
        mask = rle.decode(Rle(size=size, counts=counts))
    except RegionError:
        return
    assert mask.shape == size


@given(masks, st.integers(0, 100), st.integers(48, 111))
def test_damage_is_found_or_gives_a_mask_of_the_right_size(mask, place, character):
    code = rle.encode(mask)
    counts = list(code.counts)
    counts[place % len(counts)] = chr(character)
    try:
        decoded = rle.decode(Rle(size=code.size, counts="".join(counts)))
    except RegionError:
        return
    assert decoded.shape == mask.shape
