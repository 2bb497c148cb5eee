"""Masks as people have them: indexed, 16 bits, alpha, colours, black and white."""

from __future__ import annotations

import io
from collections.abc import Mapping

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from ureca.errors import RegionError, SourceError
from ureca.node.cli.region_options import named_seeds
from ureca.node.decoding.mask_decoder import decode_mask, decode_masks

A, B = (slice(5, 10), slice(5, 10)), (slice(20, 30), slice(20, 40))


def drawn(a: int, b: int, dtype: type = np.uint8) -> np.ndarray:
    values = np.zeros((40, 50), dtype)
    values[A], values[B] = a, b
    return values


def as_png(values: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", values)[1])


def sizes(data: bytes) -> Mapping[int, int]:
    return {value: int(mask.sum()) for value, mask in decode_masks(data).items()}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_indices_count_and_not_their_colours(bits: int) -> None:
    picture = Pillow.fromarray(drawn(1, 3), "P")
    picture.putpalette([250, 250, 250, 0, 0, 0, 9, 9, 9, 0, 0, 0] + [0] * 756)
    file = io.BytesIO()
    picture.save(file, "PNG", bits=bits)
    assert sizes(file.getvalue()) == {1: 25, 3: 200}


def test_what_is_not_labelled_is_no_region() -> None:
    picture = Pillow.fromarray(drawn(2, 255), "P")
    picture.putpalette([0] * 768)
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert sizes(file.getvalue()) == {2: 25}


def test_sixteen_bits_keep_small_and_large_ids() -> None:
    assert sizes(as_png(drawn(1, 300, np.uint16))) == {1: 25, 300: 200}
    assert sizes(as_png(drawn(1, 1, np.uint16))) == {1: 225}


def test_a_shape_in_the_alpha_channel() -> None:
    cut_out = np.full((40, 50, 4), 255, np.uint8)
    cut_out[..., 3] = drawn(255, 128)
    assert sizes(as_png(cut_out)) == {1: 225}


def test_black_and_white_with_soft_edges_is_one_region() -> None:
    assert sizes(as_png(drawn(255, 0))) == {1: 25}
    blurred = np.asarray(cv2.GaussianBlur(drawn(255, 255), (5, 5), 0))
    assert list(sizes(as_png(blurred))) == [1]
    jpeg = bytes(cv2.imencode(".jpg", drawn(255, 255))[1])
    assert 200 < sizes(jpeg)[1] < 250


def test_ids_in_grey_and_in_colours_are_regions_each() -> None:
    assert sizes(as_png(drawn(1, 7))) == {1: 25, 7: 200}
    colours = np.zeros((40, 50, 3), np.uint8)
    colours[A], colours[B] = (0, 0, 255), (0, 2, 0)  # BGR
    assert sizes(as_png(colours)) == {255: 25, 512: 200}


def test_masks_pass_the_door_that_pictures_pass() -> None:
    with pytest.raises(SourceError, match="exceeds the limit"):
        decode_masks(as_png(drawn(1, 2)), max_px=100)
    with pytest.raises(SourceError, match="not whole"):
        decode_masks(as_png(drawn(1, 2))[:-20])
    with pytest.raises(RegionError, match="empty"):
        decode_masks(as_png(drawn(0, 0)))
    assert decode_mask(as_png(drawn(1, 2))).sum() == 225


def test_a_mask_option_gives_a_region_per_id(tmp_path, caplog) -> None:
    (tmp_path / "m.png").write_bytes(as_png(drawn(1, 300, np.uint16)))
    name = str(tmp_path / "m.png")
    found = named_seeds([("mask", name), ("box", "1,2,3,4")])
    assert [named for named, _ in found] == [
        f"mask {name} (mask 1)",
        f"mask {name} (mask 300)",
        "box 1,2,3,4",
    ]
    (tmp_path / "all.png").write_bytes(as_png(np.full((4, 4), 255, np.uint8)))
    named_seeds([("mask", str(tmp_path / "all.png"))])
    assert "whole image" in caplog.text
