"""Photographs under several keys and series of frames are held out together."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from ureca.models.data.photographs import find_held_out_keys, group_keys
from ureca.models.data.regions import hash_image_key


def test_keys_of_one_photograph_are_one_group_in_any_order() -> None:
    rows = [
        {"image_key": "pan_9", "also_in_data": "coco_9"},
        {"image_key": "f8k_77", "photo_id": "77"},
        {"image_key": "coco_9", "photo_id": "77"},
        {"image_key": "coco_10", "photo_id": "78"},
        {"image_key": "pan_11", "flickr_url": "http://farm5.staticflickr.com/4/78_ab12cd_z.jpg"},
        {"image_key": "alone"},
    ]
    wanted = [{"alone"}, {"coco_10", "pan_11"}, {"coco_9", "f8k_77", "pan_9"}]
    for order in (rows, rows[::-1]):
        assert sorted(group_keys(order).values(), key=min) == wanted


def test_frames_of_a_film_views_of_a_scene_and_a_toy_are_series() -> None:
    rows = [
        {"image_key": "gtea_1", "source": "gtea", "video": "a"},
        {"image_key": "gtea_2", "source": "gtea", "video": "a"},
        {"image_key": "cv_0001TP_006690"},
        {"image_key": "cv_0001TP_006720"},
        {"image_key": "cv_0016E5_0"},
        {"image_key": "icub_hook_pear_draw_before_0"},
        {"image_key": "icub_stick_pear_push_after_3"},
        {"image_key": "worlds-dev-20-00003-0"},
        {"image_key": "worlds-dev-20-00003-1"},
    ]
    assert sorted(map(len, group_keys(rows).values())) == [1, 2, 2, 2, 2]


def test_a_photograph_is_held_out_when_any_of_its_keys_is(tmp_path: Path) -> None:
    every = 4
    held = next(f"a{n}" for n in range(99) if hash_image_key(f"a{n}") % every == 0)
    free = [f"b{n}" for n in range(99) if hash_image_key(f"b{n}") % every][:3]
    rows = [
        {"image_key": held, "photo_id": "1"},
        {"image_key": free[0], "photo_id": "1"},
        {"image_key": free[1], "photo_id": "2"},
        {"image_key": free[2]},
    ]
    films = [{"image_key": f"cv_{name}_{n}"} for name in "AB" for n in range(3)]
    with gzip.open(tmp_path / "images-train.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows + films)
    found = find_held_out_keys([tmp_path], every=every)
    assert {held, free[0]} <= found
    assert not {free[1], free[2]} & found
    film_keys = {key for key in found if key.startswith("cv_")}
    # At least one film is held out, and only whole ones.
    assert film_keys
    assert len(film_keys) % 3 == 0
    assert len(film_keys) < 6 or all(
        hash_image_key(f"series camvid {n}") % every == 0 for n in "AB"
    )
