"""Drawings: captions that can be read, never over one another, on pictures of any size."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.errors import ConfigError
from ureca.visualization.files import check_name, regions, save
from ureca.visualization.label_placement import LabelRequest, place
from ureca.visualization.palette import COLOURS, STALE, Palette
from ureca.visualization.picture import Shown, annotated
from ureca.visualization.text import clean, sprite

pytest.importorskip("PIL", reason="drawing was not proven: pip install 'ureca[render]'")


def disc(height, width, x, y, radius):
    ys, xs = np.mgrid[:height, :width]
    return np.asarray((ys - y) ** 2 + (xs - x) ** 2 < radius**2, np.bool_)


def overlap(one, other):
    return all(one[k] < other[k + 2] and other[k] < one[k + 2] for k in range(2))


@given(st.data())
def test_captions_never_overlap_nor_leave_the_picture(data):
    width, height = data.draw(st.integers(100, 700)), data.draw(st.integers(60, 400))
    wishes = []
    for _ in range(data.draw(st.integers(1, 24))):
        x0, y0 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
        box = (
            x0,
            y0,
            data.draw(st.integers(x0 + 1, width)),
            data.draw(st.integers(y0 + 1, height)),
        )
        size = (data.draw(st.integers(10, 200)), data.draw(st.integers(10, 40)))
        before = data.draw(st.none() | st.tuples(st.integers(-300, 300), st.integers(-300, 300)))
        wishes.append(LabelRequest(box, size, before))
    reserved = [(0, height - 20, 60, height)]
    spots = place(wishes, (width, height), reserved)
    placed = [
        (x, y, x + w.size_px[0], y + w.size_px[1])
        for w, spot in zip(wishes, spots, strict=True)
        if spot is not None
        for x, y in [spot]
    ]
    assert all(x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height for x0, y0, x1, y1 in placed)
    assert not any(overlap(a, b) for a, b in itertools.combinations([*placed, *reserved], 2))


def test_a_caption_stands_beside_its_region_and_stays_there():
    wish = LabelRequest((200, 100, 260, 150), (80, 20))
    [(x, y)] = place([wish], (640, 360))
    assert abs(x - 200) < 10
    assert abs(y + 20 - 100) < 10, "right above"
    moved = LabelRequest((210, 104, 270, 154), (80, 20), (x - 200, y - 100))
    [(nx, ny)] = place([moved], (640, 360))
    assert (nx - x, ny - y) == (10, 4), "it moves with its region"


def test_there_is_no_place_for_what_is_larger_than_the_picture():
    assert place([LabelRequest((0, 0, 5, 5), (300, 20))], (200, 100)) == [None]


def test_masks_are_tinted_and_captions_are_drawn(rng):
    image = np.full((360, 640, 3), 90, np.uint8)
    mask = disc(360, 640, 320, 200, 60)
    shown = Shown("mug", (260, 140, 380, 260), COLOURS[0], "a red mug", mask)
    drawn = annotated(image, [shown])
    assert drawn.shape == image.shape
    assert (image == 90).all(), "the picture that was given is untouched"
    inside = drawn[200, 320].astype(int)
    assert inside[0] > inside[2] + 20, "tinted red"
    assert (drawn[300:] == 90).all(), "nothing elsewhere"
    letters = annotated(image, [shown]).astype(int) - annotated(
        image, [Shown("mug", shown.box_xyxy_px, shown.colour, "", mask)]
    )
    assert (np.abs(letters).max(axis=2) > 60).sum() > 100, "words appear"
    white = (drawn == 255).all(axis=2)
    assert white.sum() > 20, "white letters"


def test_what_is_stale_is_grey_and_what_is_lost_is_dashed():
    image = np.full((360, 640, 3), 90, np.uint8)
    mask = disc(360, 640, 320, 200, 60)
    box = (260, 140, 380, 260)
    stale = annotated(image, [Shown("mug", box, COLOURS[0], "a red mug", mask, stale=True)])
    spread = stale.astype(int).max(axis=2) - stale.astype(int).min(axis=2)
    assert spread.max() < 12, "no colour is left"
    lost = annotated(image, [Shown("mug", box, COLOURS[0], "", None, stale=True)])
    edge = lost[140, 260:380]
    assert (edge == STALE).all(axis=1).any()
    assert (edge == 90).all(axis=1).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 2000), (120, 160), (1080, 1920)])
def test_any_size_can_be_drawn_on(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    shown = Shown("a", (0, 0, width, height), COLOURS[1], "a thing", np.ones((height, width), bool))
    drawn = annotated(image, [shown], title="cam0")
    times = drawn.shape[1] // width
    assert drawn.shape == (height * times, width * times, 3)
    assert drawn.shape[1] >= min(480, width)


TEXTS = [
    "eine Tasse mit \u00fcberm\u00e4\u00dfig langem Henkel",
    "\u8d64\u3044\u30de\u30b0\u30ab\u30c3\u30d7 " * 12,
    "\u0643\u0648\u0628 \u0623\u062d\u0645\u0631",
    "\U0001f600 mug \U0001f3fd\u200d\U0001f9b0",
    "a\x00b\x1b[31m\nc\u2028d\ud800",
    "w" * 500,
    " ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_can_be_drawn(text):
    made = sprite(text, size_px=14, width_px=200, lines=2)
    assert made.letters.shape == made.outlined.shape
    assert made.size[0] <= 204
    assert made.size[1] < 60


@given(st.text())
def test_texts_are_cleaned_of_what_moves_a_cursor(text):
    kept = clean(text)
    assert not any(ord(c) < 32 or "\ud800" <= c <= "\udfff" for c in kept)


def test_colours_are_told_apart_and_freed():
    palette = Palette()
    first = [palette[name] for name in "abcdefghijkl"]
    assert len(set(first)) == 12
    palette.forget("c")
    assert palette["new"] == first[2]
    assert palette["a"] == first[0]


def test_a_png_is_written(tmp_path):
    image = np.full((100, 500, 3), 90, np.uint8)
    masks = [disc(100, 500, 100, 50, 20), np.zeros((100, 500), np.bool_)]
    assert len(regions(masks, ["a", "b"])) == 1, "an empty mask is no region"
    save(tmp_path / "out.png", image, masks, ["a thing", "nothing"])
    assert cv2.imread(str(tmp_path / "out.png")).shape == (100, 500, 3)
    with pytest.raises(ConfigError, match="cannot write"):
        save(tmp_path / "no" / "out.png", image, masks, ["a thing", "nothing"])


@pytest.mark.parametrize(
    ("name", "message"), [("out.jpg", "writes PNG"), ("no/o.png", "no folder")]
)
def test_a_name_is_refused_before_the_work(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        check_name(tmp_path / name)
