"""Benchmarks from end to end: imported in their own form, captioned, judged by `ureca eval`."""

import json

import numpy as np
import pytest
from tqdm import tqdm

pytest.importorskip("pycocoevalcap", reason="ureca eval needs the extra `eval`")

from tests.readers.conftest import HEIGHT, WIDTH, dump, picture
from tests.readers.test_coco import CATEGORIES, SQUARE, image, region
from tests.readers.test_refcoco import NAME, OTHER, ref
from tests.readers.test_sa1b import row, write
from ureca.models.data.cli import main as data_main
from ureca.models.data.folders import read_folders
from ureca.models.evaluation.cli import main
from ureca.models.mllm.training.batch_sampler import load_records as mllm_records
from ureca.models.mllm.training.config import MllmDataConfig, MllmTrainConfig
from ureca.models.training.config import DataConfig
from ureca.models.training.dataset import load_records
from ureca.protocol import rle

CHEAP = ["--no-meteor", "--no-similarity", "--no-report"]


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch):
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


def judged(root, out, style, captions):
    """Figures of given captions, by the number at the end of their region's id."""
    records = read_folders([root]).records
    said = [
        {"region_id": r.region_id, "caption": captions[r.region_id.rpartition("_")[2]]}
        for r in records
    ]
    file = out.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(one) + "\n" for one in said))
    command = ["--captions", str(file), "--data", str(root), "--style", style, "-o", str(out)]
    assert main([*command, *CHEAP]) == 0
    parts = json.loads((out / "metrics.json").read_text())["parts"]
    return parts[f"{root.name}/{style}"]["groups"]["all"]


def test_refcocog_is_judged_by_all_expressions(tmp_path):
    for name in (NAME, OTHER):
        picture(tmp_path / "train2014" / name)
    content = {
        "images": [image(42, NAME), image(43, OTHER)],
        "annotations": [region(1, 42, [SQUARE]), region(2, 43, [SQUARE]), region(3, 43, [SQUARE])],
        "categories": CATEGORIES,
    }
    refs = [
        ref(0, 1, "val", "the dog", "a brown dog that sleeps on a red sofa"),
        ref(1, 2, "val", "a cat on the roof of a car", image_id=43),
        ref(2, 3, "train", "never asked", image_id=43),
    ]
    files = dump(tmp_path / "refs(umd).json", refs), dump(tmp_path / "instances.json", content)
    words = ["import", "refcoco", *map(str, files), "--pictures", str(tmp_path / "train2014")]
    root = tmp_path / "refcocog"
    assert data_main([*words, "--name", "refcocog", "--split", "val", "-o", str(root)]) == 0
    own = {"1": "a brown dog that sleeps on a red sofa", "2": "a cat on the roof of a car"}
    best = judged(root, tmp_path / "best", "short", own)
    assert (best["n"], best["bleu4"]) == (2, pytest.approx(1))
    assert best["cider"] > 4
    swapped = judged(root, tmp_path / "swapped", "short", {"1": own["2"], "2": own["1"]})
    assert swapped["bleu4"] < 0.1
    assert swapped["cider"] < 0.1
    with_train = tmp_path / "both"
    assert data_main([*words, "--name", "refcocog", "-o", str(with_train)]) == 0
    learnt = load_records([DataConfig(root=str(with_train))])
    assert [record.region_id for _, record in learnt] == ["refcocog_3"]  # val is never trained on
    config = MllmTrainConfig(
        data=(MllmDataConfig(root=str(with_train)),), start_from="", held_out_every=0
    )
    assert [record.region_id for record, _ in mllm_records(config)] == ["refcocog_3"]


def test_ureca_test_is_judged_by_its_long_captions(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[5:20, 5:30] = True
    code = {"size": [HEIGHT, WIDTH], "counts": rle.encode(mask).counts}
    folder = tmp_path / "SA1B"
    picture(folder / "sa_7.jpg")
    size = {"width": WIDTH, "height": HEIGHT, "file_name": "sa_7.jpg"}
    rows = [{"id": i, "segmentation": code} for i in (1, 2)]
    dump(folder / "sa_7.json", {"image": size, "annotations": rows})
    said = {"1": "A red cup with a white handle.", "2": "A lid."}
    captions = [row(i, "sa_7", number, text) for i, (number, text) in enumerate(said.items())]
    file = write(tmp_path / "ureca_test.jsonl", captions)
    root = tmp_path / "ureca-test"
    assert data_main(["import", "ureca", str(file), str(folder), "-o", str(root)]) == 0
    best = judged(root, tmp_path / "best", "long", said)
    assert (best["n"], best["bleu4"], best["rouge_l"]) == (2, pytest.approx(1), pytest.approx(1))
    worse = judged(root, tmp_path / "worse", "long", {"1": "A red cup.", "2": "A table."})
    assert worse["rouge_l"] < 0.8


def test_visual_genome_is_judged_box_by_box(tmp_path):
    picture(tmp_path / "VG_100K" / "7.jpg")
    rows = [
        {"id": i, "image_id": 7, "category_id": 1, "bbox": [i, 2, 10, 10], "caption": text}
        for i, text in ((1, "a red ball on the floor"), (2, "the wall behind a chair"))
    ]
    content = {"images": [image(7, "7.jpg")], "annotations": rows}
    file = dump(tmp_path / "test.json", {**content, "categories": [{"id": 1, "name": "object"}]})
    root = tmp_path / "vg"
    words = ["import", "coco", str(file), "--pictures", str(tmp_path / "VG_100K")]
    assert data_main([*words, "--name", "vg", "--split", "test", "-o", str(root)]) == 0
    found = judged(root, tmp_path / "out", "short", {"1": "a red ball", "2": "a red ball"})
    assert found["n"] == 2
    assert 0 < found["bleu1"] < 1
    assert found["cider"] > 0
