"""`ureca curate parts`: every text means exactly its regions, and readers take the folder."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ureca import cli
from ureca.models.curation.parts.phrases import write_queries
from ureca.models.data.regions import RegionRecord
from ureca.models.evaluation.res.cases import read_pictures
from ureca.protocol import rle


def make(name, key="p0", *, short=(), category="", parent="", at=0):
    mask = np.zeros((40, 60), np.bool_)
    mask[4 + at : 12 + at, 5 + at : 20 + at] = True
    return RegionRecord(
        region_id=f"{key}-{name}",
        image_key=key,
        shard="",
        source="test",
        height=40,
        width=60,
        counts=rle.encode(mask).counts,
        box_xywh_px=(5.0 + at, 4.0 + at, 15.0, 8.0),
        short=short,
        category=category,
        part=bool(parent),
        parent=f"{key}-{parent}" if parent else "",
    )


SCENE = [
    make("mug", short=("a red mug", "a red mug on the long wooden kitchen table")),
    make("handle", category="handle", parent="mug", at=2),
    make("car", short=("the car",), at=4),
    make("w1", category="car:wheel", parent="car", at=6),
    make("w2", category="car:wheel", parent="car", at=8),
    make("dog1", short=("a dog",), at=10),
    make("dog2", short=("the dog",), at=12),
    make("tail", category="tail", parent="dog1", at=14),
    make("odd", short=("R2-D2 №5",), at=16),
    make("trees1", short=("green trees",), at=18),
    make("trees2", short=("some green trees",), at=20),
    make("mug", short=("a cup",)),
]


def test_texts_of_a_picture_mean_exactly_their_regions():
    found = {query.text: query for query in write_queries(SCENE, ["lid", "tail", "wheel"])}
    meant = {text: {t.split("-")[1] for t in query.targets} for text, query in found.items()}
    absent = [query for query in found.values() if query.kind == "none"]
    assert {text: ids for text, ids in meant.items() if ids} == {
        "the red mug": {"mug"},
        "the car": {"car"},
        "every dog": {"dog1", "dog2"},
        "the green trees": {"trees1", "trees2"},
        "the handle of the red mug": {"handle"},
        "every wheel of the car": {"w1", "w2"},
        "the tail of any dog": {"tail"},
    }
    assert absent
    assert all(q.text in {"the lid of the red mug", "the lid of the car"} for q in absent)
    assert all(q.near for q in absent)
    kinds = {query.text: query.kind for query in found.values()}
    assert kinds["the handle of the red mug"] == "part"
    assert kinds["every wheel of the car"] == "several"
    again = write_queries(SCENE, ["lid", "tail", "wheel"])
    assert [q.to_json() for q in again] == [q.to_json() for q in found.values()]


def test_the_command_writes_a_folder_that_evaluation_reads(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "images").mkdir(parents=True)
    other = [make("pot", "p1", short=("a pot",)), make("lid", "p1", category="lid", parent="pot")]
    lone = [make("cat", "p2", short=("a cat",))]
    for key in ("p0", "p1", "p2"):
        cv2.imwrite(str(data / "images" / f"{key}.png"), np.zeros((40, 60, 3), np.uint8))
    lines = "".join(json.dumps(r.to_json()) + "\n" for r in [*SCENE, *other, *lone])
    (data / "regions-test.jsonl").write_text(lines, encoding="utf8")
    assert cli.main(["curate", "parts", str(data), "-o", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 2
    assert report["part"] == 3
    assert report["none"] >= 2
    pictures = read_pictures(out, every=16)
    cases = {case.text: case for picture in pictures for case in picture.cases}
    assert cases["the lid of the pot"].type == "part"
    assert not any(case.text.endswith("cat") for case in cases.values())
    assert sum(not case.targets for case in cases.values()) == report["none"]
    assert (out / "images" / "p1.png").is_file()
    assert cli.main(["curate", "parts", str(data), "-o", str(out)]) == 2
    assert "give another folder" in capsys.readouterr().err
    (data / "regions-test.jsonl").write_text(json.dumps(lone[0].to_json()) + "\n")
    assert cli.main(["curate", "parts", str(data), "-o", str(tmp_path / "none")]) == 2
    assert "no regions that are parts" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a red mug", "The red mug.", "red  mug"])
def test_names_lose_their_article(name):
    from ureca.models.curation.parts.phrases import name_region

    assert name_region(make("x", short=(name,))) == "red mug"
