"""Names, colours and sentences: what can be checked without drawing anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ureca.models.data.synthetic.language import captions, facts
from ureca.models.data.synthetic.language.captions import Writer
from ureca.models.data.synthetic.language.facts import Sighting, make_nodes
from ureca.models.data.synthetic.language.truth import ViewTruth
from ureca.models.data.synthetic.objects import palette
from ureca.models.data.synthetic.objects.kinds import KINDS, draw_item
from ureca.models.data.synthetic.objects.parts import Dice, Item
from ureca.models.data.synthetic.scenes.scene import draw_scene


def _item(kind: str, colour: str, seed: int = 0) -> Item:
    return draw_item(kind, Dice(np.random.default_rng(seed), forced={kind: colour}))


def _seen(
    index: int, item: Item, x: float, depth: float = 0.8, host: int | None = None
) -> Sighting:
    pixels = tuple(500 for _ in item.parts)
    return Sighting(index, item, 500 * len(pixels), (x, 0.5), depth, pixels, host=host)


def _sentence(seen: list[Sighting], node: str) -> str | None:
    nodes = make_nodes(seen, [])
    return Writer(ViewTruth("v", "dev", nodes), seen).long(nodes[node])


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
    assert captions.format_title(_item("mug", "red")) == "a red mug"
    assert captions.format_title(_item("mug", "orange")) == "an orange mug"
    fruit = draw_item("orange", Dice(np.random.default_rng(0)))
    assert captions.format_title(fruit) == "an orange"
    assert captions.format_title(_item("screwdriver", "red")) == "a red screwdriver"


def test_part_names_start_with_the_plain_one() -> None:
    mug = _item("mug", "blue")
    names = captions.list_part_names(mug, mug.parts[1])
    assert names[0] == "the handle of a blue mug"
    assert all("handle" in name for name in names)


def test_a_sentence_singles_out_one_of_two_twins() -> None:
    twin, bottle = _item("mug", "blue"), _item("bottle", "white")
    scene = [_seen(0, twin, 0.2), _seen(1, twin, 0.8), _seen(2, bottle, 0.5)]
    assert _sentence(scene, "o0") == "a blue mug on the left"
    assert _sentence(scene, "o1") == "a blue mug on the right"
    assert _sentence(scene, "g0") == "two blue mugs"


def test_a_neighbour_is_named_where_nothing_else_singles_out() -> None:
    twin, bottle = _item("mug", "blue"), _item("bottle", "white")
    scene = [_seen(0, twin, 0.39), _seen(1, twin, 0.61), _seen(2, bottle, 0.5)]
    assert _sentence(scene, "o0") == "a blue mug to the left of a white bottle"
    assert _sentence(scene, "o1") == "a blue mug to the right of a white bottle"


def test_no_sentence_is_better_than_a_doubtful_one() -> None:
    twin = _item("cube", "blue")
    scene = [_seen(0, twin, 0.50), _seen(1, twin, 0.52, depth=0.82)]
    assert _sentence(scene, "o0") is None


def test_a_near_colour_counts_as_a_rival() -> None:
    cubes = [_seen(0, _item("cube", "light blue"), 0.5), _seen(1, _item("cube", "blue"), 0.51)]
    assert _sentence(cubes, "o0") is None
    plain = [cubes[0], replace(cubes[1], item=_item("cube", "red"))]
    assert _sentence(plain, "o0") == "a light blue cube"


def test_a_colour_that_hardly_shows_is_not_said() -> None:
    lamp = _item("lamp", "red")
    seen = replace(_seen(0, lamp, 0.5), part_pixels=(900, 500, 100))
    assert _sentence([seen], "o0") == "a lamp"
    assert _sentence([_seen(0, lamp, 0.5)], "o0") == "a red lamp"


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": facts.MIN_OBJECT_PIXELS - 1},
        {"shown": 0.2},
        {"on_table": False},
        {"part_pixels": (1000, 5)},
    ],
)
def test_what_nobody_could_name_is_left_out(change: dict[str, Any]) -> None:
    mug = _seen(0, _item("mug", "blue"), 0.5)
    assert facts.is_nameable(mug)
    assert not facts.is_nameable(replace(mug, **change))


def test_contents_make_a_group() -> None:
    bowl, apple = _item("bowl", "blue"), _item("apple", "green")
    scene = [_seen(0, bowl, 0.5), _seen(1, apple, 0.5, host=0)]
    assert _sentence(scene, "o1") == "a green apple in a blue bowl"
    assert _sentence(scene, "g0") == "a blue bowl with a green apple in it"
    counters = [_seen(0, _item("book", "red"), 0.5), _seen(1, _item("book", "blue"), 0.5, host=0)]
    assert _sentence(counters, "g0") == "a stack of a blue book and a red book"
