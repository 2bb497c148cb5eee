"""Names, colours and sentences: what can be checked without drawing anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ureca.models.data.worlds import captions, palette
from ureca.models.data.worlds.captions import Sighting
from ureca.models.data.worlds.kinds import KINDS, draw_item
from ureca.models.data.worlds.parts import Dice, Item
from ureca.models.data.worlds.scene import draw_scene


def _item(kind: str, colour: str, seed: int = 0) -> Item:
    return draw_item(kind, Dice(np.random.default_rng(seed), forced={kind: colour}))


def _seen(
    index: int, item: Item, x: float, depth: float = 0.8, host: int | None = None
) -> Sighting:
    pixels = tuple(500 for _ in item.parts)
    return Sighting(index, item, 500 * len(pixels), (x, 0.5), depth, pixels, host)


@pytest.mark.parametrize("name", palette.COLOURS)
def test_drawn_colours_keep_their_margin(name: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        rgb = palette.draw_colour(name, rng)
        assert palette.colour_name(rgb) == name
        assert palette.margin(rgb, name) >= palette.COLOUR_MARGIN


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_named_parts_inside_its_bounds(kind: str) -> None:
    for seed in range(3):
        item = draw_item(kind, Dice(np.random.default_rng(seed)))
        names = [part.name for part in item.parts]
        assert len(set(names)) == len(names)
        assert item.colliders
        for part in item.parts:
            assert part.mesh.faces.max() < len(part.mesh.vertices)
            lengths = np.linalg.norm(part.mesh.normals, axis=1)
            assert np.all((lengths > 0.99) | (lengths < 1e-6))
            assert part.mesh.vertices[:, 2].min() > -0.006


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_training_never_draws_a_held_back_pair(kind: str) -> None:
    for seed in range(12):
        item = draw_item(kind, Dice(np.random.default_rng(seed)))
        assert (item.look.colour, kind) not in palette.HELD_BACK_PAIRS


def test_test_scenes_do_draw_held_back_pairs() -> None:
    drawn = set()
    for seed in range(10):
        items = [placement.item for placement in draw_scene(seed, held_back=True).placements]
        drawn |= {(item.look.colour, item.kind) for item in items}
    assert len(drawn & palette.HELD_BACK_PAIRS) >= 4


def test_titles_read_like_people() -> None:
    assert captions.title(_item("mug", "red")) == "a red mug"
    assert captions.title(_item("mug", "orange")) == "an orange mug"
    fruit = draw_item("orange", Dice(np.random.default_rng(0)))
    assert captions.title(fruit) == "an orange"
    assert captions.short_names(fruit) == ["an orange"]


def test_part_names_start_with_the_plain_one() -> None:
    mug = _item("mug", "blue")
    names = captions.part_names(mug, mug.parts[1])
    assert names[0] == "the handle of a blue mug"
    assert all("handle" in name for name in names)


def test_a_sentence_singles_out_one_of_two_twins() -> None:
    twin, bottle = _item("mug", "blue"), _item("bottle", "white")
    scene = [_seen(0, twin, 0.2), _seen(1, twin, 0.8), _seen(2, bottle, 0.5)]
    assert captions.long_names(scene[0], scene)[0].endswith("to the left of a white bottle")
    assert captions.long_names(scene[1], scene)[0].endswith("to the right of a white bottle")


def test_no_sentence_is_better_than_a_doubtful_one() -> None:
    twin = _item("cube", "blue")
    scene = [_seen(0, twin, 0.50), _seen(1, twin, 0.52, depth=0.82)]
    assert captions.long_names(scene[0], scene) == []


def test_look_alikes_share_a_word() -> None:
    light, dark = _seen(0, _item("mug", "light blue"), 0.2), _seen(1, _item("mug", "blue"), 0.8)
    assert captions.look_alikes(light, [light, dark]) == frozenset({1})
    other = replace(dark, item=_item("mug", "white"))
    assert captions.look_alikes(light, [light, other]) == frozenset()
