"""The mask tree and what is left out of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.curation.conftest import MASKS, SIZE, box
from ureca.models.curation.records import CuratedPicture, CuratedRegion
from ureca.models.curation.tree import TreeConfig, build_tree, find_parents
from ureca.protocol import rle


def picture_of(masks, size=SIZE):
    regions = tuple(
        CuratedRegion(region_id=name, counts=rle.encode(mask).counts)
        for name, mask in masks.items()
    )
    return CuratedPicture(image_key="p", height=size[0], width=size[1], regions=regions)


def test_parts_hang_below_the_smallest_thing_that_holds_them():
    picture = build_tree(picture_of(MASKS), TreeConfig(max_share=1.0))
    parents = {region.region_id: region.parent for region in picture.regions}
    assert parents == {"7": "", "1": "7", "5": "7", "2": "1", "4": "1", "3": "2", "6": "7"}
    depths = {region.region_id: region.depth for region in picture.regions}
    assert depths == {"7": 3, "1": 2, "5": 0, "2": 1, "4": 0, "3": 0, "6": 0}


def test_what_is_left_out_takes_its_parts_along_and_says_why():
    picture = build_tree(picture_of(MASKS), TreeConfig())
    reasons = {region.region_id: region.left_out for region in picture.regions}
    # The whole picture is too large, and everything in it was its part.
    assert reasons["7"] == "too_large"
    assert reasons["6"] == "too_small"
    assert {reasons[name] for name in "12345"} == {"orphan"}


def test_without_the_whole_picture_its_things_are_main_ones():
    masks = {name: mask for name, mask in MASKS.items() if name != "7"}
    picture = build_tree(picture_of(masks), TreeConfig())
    assert [region.region_id for region in picture.list_children("")] == ["1", "5"]
    deep = build_tree(picture_of(masks), TreeConfig(min_depth=1))
    assert {r.region_id: r.left_out for r in deep.regions}["5"] == "shallow"


def test_a_mask_that_is_none_costs_itself():
    picture = picture_of({"1": MASKS["1"]})
    bad = CuratedRegion(region_id="bad", counts="not a code")
    empty = CuratedRegion(region_id="empty", counts=rle.encode(np.zeros(SIZE, bool)).counts)
    picture = build_tree(
        CuratedPicture(image_key="p", height=96, width=128, regions=(bad, *picture.regions, empty)),
        TreeConfig(),
    )
    assert {r.region_id: r.left_out for r in picture.regions} == {
        "1": None,
        "bad": "bad_mask",
        "empty": "bad_mask",
    }


def test_half_inside_is_outside():
    masks = [box(0, 0, 60, 60), box(45, 0, 75, 30)]
    assert find_parents(masks, 0.8) == [-1, -1]
    assert find_parents(masks, 0.5) == [-1, 0]


boxes = st.tuples(
    st.integers(0, 100), st.integers(0, 70), st.integers(1, 60), st.integers(1, 60)
).map(lambda b: box(b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(st.lists(boxes, min_size=1, max_size=12), st.floats(0.3, 1.0))
def test_the_tree_is_a_tree(masks, containment):
    named = {str(number): mask for number, mask in enumerate(masks)}
    config = TreeConfig(containment=containment, min_share=0.01, max_share=0.6)
    picture = build_tree(picture_of(named), config)
    assert {region.region_id for region in picture.regions} == set(named)
    by_id = {region.region_id: region for region in picture.regions}
    seen = set()
    for region in picture.regions:
        assert not region.parent or region.parent in seen  # parents first: no cycle
        seen.add(region.region_id)
        if region.parent:
            inside, outside = named[region.region_id], named[region.parent]
            assert (inside & outside).sum() >= containment * inside.sum()
            assert by_id[region.parent].depth > region.depth
            if region.left_out is None:
                assert by_id[region.parent].left_out is None
    for region in picture.kept:
        assert region.share == pytest.approx(named[region.region_id].mean())
        assert region.share >= config.min_share
        assert region.parent or region.share <= config.max_share
