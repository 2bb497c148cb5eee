"""Rendered views: determinism, exact masks, the record format and going on after a stop."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ureca.models.data.synthetic import cli, store
from ureca.models.data.synthetic.cli import SceneJob, main, make_worlds, render_scene
from ureca.models.data.synthetic.language import facts
from ureca.models.data.synthetic.language.captions import MAX_WORDS
from ureca.models.data.synthetic.language.truth import read_truth
from ureca.models.data.synthetic.rendering import views

# pycocotools' decode is written for an older numpy; its result is right all the same.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FIELDS = {
    "region_id", "image_key", "shard", "split", "source", "license", "width", "height", "bbox",
    "rle", "mask_source", "area_frac", "category", "types", "part", "stuff", "group",
    "expressions", "expressions_long", "expr_source", "unique_in_image", "kind", "held_back",
}  # fmt: skip


def _regions(root: Path) -> list[dict[str, Any]]:
    return store.read_lines(root / "regions-train.jsonl.gz")


def _decode(row: dict[str, Any]) -> NDArray[np.bool_]:
    return np.asarray(coco_mask.decode(row["rle"])).astype(bool)


def test_the_same_job_gives_the_same_scene(gl: None) -> None:
    job = SceneJob(4, 1, 1, "train", "worlds-000")
    first, second = render_scene(job), render_scene(job)
    assert first.pictures == second.pictures
    assert first.regions == second.regions
    other = render_scene(SceneJob(4, 2, 1, "train", "worlds-000"))
    assert other.pictures[0][1] != first.pictures[0][1]


def test_records_have_the_common_format(small_run: Path) -> None:
    rows = _regions(small_run)
    assert len(rows) > 20
    assert len({row["region_id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) >= FIELDS
        mask = _decode(row)
        assert (row["height"], row["width"]) == cli.PICTURE_SIZE
        assert mask.shape == cli.PICTURE_SIZE
        assert mask.sum() >= facts.MIN_PART_PIXELS
        assert not row["held_back"]
        assert row["bbox"] == views.compute_bounding_box(mask)
        assert row["area_frac"] == pytest.approx(mask.mean(), abs=1e-5)
        assert row["mask_source"] == "gt:worlds"
        flags = {"part": row["part"], "background": row["stuff"], "group": row["group"]}
        assert [name for name, flag in flags.items() if flag] in (row["types"], [])
        assert any(flags.values()) == (row["types"] != ["object"])


def test_parts_lie_inside_their_items_and_apart(small_run: Path) -> None:
    rows = {row["region_id"]: row for row in _regions(small_run)}
    parts = [row for row in rows.values() if row["part"]]
    assert parts
    covered: dict[str, NDArray[np.int64]] = {}
    for row in parts:
        mask, whole = _decode(row), _decode(rows[row["parent"]])
        assert not np.any(mask & ~whole)
        assert row["kind"] == rows[row["parent"]]["kind"]
        covered[row["parent"]] = covered.get(row["parent"], np.zeros(mask.shape, np.int64)) + mask
    assert all(counts.max() == 1 for counts in covered.values())


def test_captions_are_clean_and_sentences_unique_in_a_view(small_run: Path) -> None:
    sentences: Counter[tuple[str, str]] = Counter()
    for row in _regions(small_run):
        texts = row["expressions"] + row["expressions_long"]
        assert len(row["expressions"]) == 1
        assert all(len(text.split()) <= MAX_WORDS for text in texts)
        assert all(text == text.lower().strip() and not text.endswith(".") for text in texts)
        sentences.update((row["image_key"], text) for text in row["expressions_long"])
    assert sentences
    assert max(sentences.values()) == 1


def test_pictures_and_index_agree(small_run: Path) -> None:
    images = store.read_lines(small_run / "images-train.jsonl.gz")
    assert len(images) == 4
    assert {row["image_key"] for row in _regions(small_run)} == {i["image_key"] for i in images}
    with tarfile.open(small_run / "images" / images[0]["shard"]) as archive:
        assert archive.getnames() == [row["file"] for row in images]
        for row in images:
            member = archive.extractfile(row["file"])
            assert member is not None
            picture = cv2.imdecode(np.frombuffer(member.read(), np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            assert picture.shape == (row["height"], row["width"], 3)
            assert 40 < picture.mean() < 230


def test_the_projects_reader_takes_the_records(small_run: Path) -> None:
    regions = pytest.importorskip("ureca.models.data.regions", reason="the reader is not there")
    records = list(regions.read_regions(small_run / "regions-train.jsonl.gz"))
    pictures = regions.ImageStore([small_run / "images"])
    assert len(records) == len(_regions(small_run))
    assert all(record.image_key in pictures for record in records)
    assert all(record.short for record in records)


def _count_scenes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []

    def counting(job: SceneJob) -> store.Rendered:
        made.append(job.scene)
        return store.Rendered(
            job.scene, [(f"{job.key(0)}.webp", b"x")], [{"image_key": job.key(0)}], []
        )

    monkeypatch.setattr(cli, "render_scene", counting)
    return made


def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _count_scenes(monkeypatch)
    make_worlds(tmp_path, scenes=30, views=1, seed=0, workers=1)
    assert made == list(range(30))
    # The last shard was lost half-way: its records are missing, so only its scenes are made anew.
    (tmp_path / "shards" / "worlds-001.json.gz").unlink()
    made.clear()
    totals = make_worlds(tmp_path, scenes=30, views=1, seed=0, workers=1)
    assert made == list(range(25, 30))
    assert (totals.shards, totals.images) == (2, 30)
    made.clear()
    assert make_worlds(tmp_path, scenes=30, views=1, seed=0, workers=1) == totals
    assert made == []


def test_splits_share_a_folder_but_not_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _count_scenes(monkeypatch)
    assert make_worlds(tmp_path, scenes=2, views=1, seed=0, workers=1).images == 2
    assert make_worlds(tmp_path, scenes=1, views=1, seed=0, workers=1, split="test").images == 1
    assert make_worlds(tmp_path, scenes=3, views=1, seed=0, workers=1, split="dev").images == 3
    assert len(store.read_lines(tmp_path / "images-train.jsonl.gz")) == 2
    assert len(store.read_lines(tmp_path / "images-test.jsonl.gz")) == 1
    assert len(store.read_lines(tmp_path / "images-dev.jsonl.gz")) == 3


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "ureca worlds make -o" in capsys.readouterr().out


def test_a_group_is_the_union_of_its_members(small_run: Path) -> None:
    rows = {row["region_id"]: row for row in _regions(small_run)}
    groups = [row for row in rows.values() if row["group"]]
    assert groups
    for view in read_truth(small_run / "scenes-train.jsonl.gz"):
        for node in (one for one in view.nodes.values() if one.type == "group"):
            members = [_decode(rows[f"{view.image_key}_{name}"]) for name in node.members]
            union = np.logical_or.reduce(members)
            assert np.array_equal(_decode(rows[f"{view.image_key}_{node.node}"]), union)


def test_id_maps_say_what_lies_at_every_pixel(tmp_path) -> None:
    make_worlds(tmp_path, scenes=1, views=1, seed=5, workers=1, size=(120, 160), pan=True)
    (image,) = store.read_lines(tmp_path / "images-train.jsonl.gz")
    regions = {
        row["region_id"].removeprefix(f"{row['image_key']}_"): row
        for row in store.read_lines(tmp_path / "regions-train.jsonl.gz")
    }
    with tarfile.open(tmp_path / "pan" / image["shard"]) as tar:
        file = tar.extractfile(f"{image['image_key']}.png")
        assert file is not None
        ids = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert ids.shape == (120, 160)
    assert set(np.unique(ids)) <= {0, *(piece["n"] for piece in image["pieces"])}
    things = {piece["thing"] for piece in image["pieces"]}
    shown = [name for name, row in regions.items() if name in things and not row["group"]]
    assert shown
    for name in shown:
        numbers = [piece["n"] for piece in image["pieces"] if piece["thing"] == name]
        mask = _decode(regions[name])
        assert np.array_equal(np.isin(ids, numbers), mask), name
    # Without its maps a shard is not finished.
    assert store.list_finished_scenes(tmp_path, "worlds-000", pan=True) == [0]
    (tmp_path / "pan" / "worlds-000.tar").unlink()
    assert store.list_finished_scenes(tmp_path, "worlds-000", pan=True) == []
    assert store.list_finished_scenes(tmp_path, "worlds-000") == [0]
