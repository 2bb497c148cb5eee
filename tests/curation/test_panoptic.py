"""`ureca curate panoptic`: every segment one caption or a reason, in Pix2Cap's files, and then
what a region model is trained on.
"""

from __future__ import annotations

import gzip
import json

import cv2
import numpy as np
import pytest

from tests.curation.conftest import Scripted
from ureca.errors import ConfigError
from ureca.models.curation.cli import main
from ureca.models.curation.panoptic.cli import SegmentSettings
from ureca.models.curation.panoptic.output import write_panoptic
from ureca.models.curation.panoptic.sources import read_segments
from ureca.models.curation.panoptic.stages import SegmentWorker, parse_segment_caption
from ureca.models.curation.pipeline import curate
from ureca.models.data.cli import main as data_main
from ureca.models.data.folders import read_folders
from ureca.models.data.regions import read_regions
from ureca.models.evaluation.panoptic.coco_files import make_true_case, read_coco_panoptic
from ureca.models.mllm.training.batch_sampler import load_records
from ureca.models.mllm.training.config import MllmDataConfig, MllmTrainConfig
from ureca.models.runtime.segmentation.panoptic.coco_format import encode_segment_png
from ureca.protocol import rle

DOG, GRASS, CROWD = 7, 70_000, 9
HEIGHT, WIDTH = 60, 80


def draw_ids():
    ids = np.full((HEIGHT, WIDTH), GRASS)
    ids[10:40, 10:50] = DOG
    ids[50:, 60:] = CROWD
    return ids


@pytest.fixture
def coco(tmp_path):
    """Two pictures as COCO's panoptic files have them; one segment has no pixel."""
    maps, images = tmp_path / "panoptic_train", tmp_path / "train"
    maps.mkdir()
    images.mkdir()
    rng = np.random.default_rng(0)
    annotations, listed = [], []
    for number in (11, 12):
        cv2.imwrite(str(images / f"{number}.png"), rng.integers(0, 255, (HEIGHT, WIDTH, 3)))
        (maps / f"{number}.png").write_bytes(encode_segment_png(draw_ids()))
        rows = [
            {"id": DOG, "category_id": 18},
            {"id": GRASS, "category_id": 193},
            {"id": CROWD, "category_id": 18, "iscrowd": 1},
            {"id": 5, "category_id": 18},
        ]
        annotations.append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": rows}
        )
        listed.append(
            {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        )
    path = tmp_path / "panoptic_train.json"
    categories = [
        {"id": 18, "name": "dog", "isthing": 1},
        {"id": 193, "name": "grass", "isthing": 0},
    ]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path, images


def ask(url, coco, out, *more):
    path, images = coco
    who = ["--url", url, "--model", "scripted", "--retries", "2", "--json"]
    return ["panoptic", str(path), "--images", str(images), "-o", str(out), *who, *more]


def test_a_server_describes_each_segment_once_and_the_run_goes_on(coco, tmp_path, serve, capsys):
    server = serve([500])
    server.reply = lambda prompt, key: "True" if "True or False" in prompt else f"seen {key[:6]}"
    out = tmp_path / "out"
    assert main(ask(server.url, coco, out, "--max-questions", "5", "--copy-images")) == 1
    first = json.loads(capsys.readouterr().out)
    assert (first["pictures"], first["pictures_failed"]) == (1, {"budget": 1})
    assert main(ask(server.url, coco, out, "--copy-images")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "report.json").read_text())
    # Two captions and two verdicts a picture; one request was paid before and is not sent again.
    assert report["answers"]["kept"] == 8
    assert report["questions"]["asked"] == 3
    assert (report["regions_in"], report["kept"]) == (8, 4)
    assert {k: n for k, n in report["left_out"].items() if n} == {"crowd": 2, "bad_mask": 2}
    assert (report["pictures_complete"], report["same_words"]) == (0, 0)
    prompts = [body["messages"][0]["content"][-1]["text"] for body in server.bodies]
    assert any("segment 1 by itself. People labelled it: dog." in text for text in prompts)
    assert all(len(body["messages"][0]["content"]) == 3 for body in server.bodies)  # two views


def run(source, out, replies=None, **more):
    path, images = source
    read = read_segments(path, images=[images])
    settings = SegmentSettings(roots=(path,), out=out, images=(images,), **more)
    scripted = Scripted(replies)
    report = curate(
        read.pictures, settings, worker=lambda given: SegmentWorker(given, read.images, scripted)
    )
    return read, report, scripted


def finished(read, out):
    from ureca.models.curation.output import read_finished

    return list(read_finished(out, [picture.image_key for picture in read.pictures]))


def test_the_files_are_those_of_pix2cap(coco, tmp_path):
    out = tmp_path / "out"
    lies = {("long", f"11_{GRASS}"): "It is segment 2, the grass.", ("verify", f"12_{DOG}"): "no"}
    read, _, scripted = run(coco, out, lies)
    write_panoptic(out, finished(read, out), read)
    file = json.loads((out / "panoptic.json").read_text())
    assert [image["file_name"] for image in file["images"]] == ["11.png", "12.png"]
    assert [(one["id"], one["name"]) for one in file["categories"]] == [(18, "dog"), (193, "grass")]
    first = {row["id"]: row for row in file["annotations"][0]["segments_info"]}
    assert sorted(first) == [DOG, CROWD, GRASS]
    assert first[DOG]["description"] == f"a long story of 11_{DOG}"
    assert (first[DOG]["area"], first[DOG]["bbox"]) == (1200, [10, 10, 40, 30])
    assert (first[GRASS]["description"], first[GRASS]["reason"]) == ("", "bad_answer")
    assert (first[CROWD]["iscrowd"], first[CROWD]["category_id"]) == (1, 18)
    second = {row["id"]: row for row in file["annotations"][1]["segments_info"]}
    assert (second[DOG]["description"], second[DOG]["reason"]) == ("", "not_verified")
    (one, _) = read_coco_panoptic(out / "panoptic.json")
    assert np.array_equal(one.ids, draw_ids())
    assert make_true_case(one).segments[0].references == (first[DOG]["description"],)
    marked = next(question.views[0] for question in scripted.asked if question.kind == "long")
    assert marked.shape == (HEIGHT, WIDTH, 3)


def test_a_region_model_trains_on_them(coco, tmp_path, serve, capsys):
    server = serve()
    out, data = tmp_path / "out", tmp_path / "data"
    assert main(ask(server.url, coco, out, "--copy-images")) == 0
    words = [str(out / "panoptic.json"), str(out / "panoptic"), "--pictures", str(out / "images")]
    assert data_main(["import", "pix2cap", *words, "--split", "train", "-o", str(data)]) == 0
    capsys.readouterr()
    imported = {r.region_id: r for r in read_folders([data]).records if r.long}
    curated = {r.region_id: r for r in read_regions(out / "regions-curated.jsonl.gz")}
    assert len(imported) == len(curated) == 4
    for number, key in ((1, "11"), (2, "12")):
        same = imported[f"pix2cap_{number}_{DOG}"], curated[f"{key}_{DOG}"]
        assert same[0].long == same[1].long
        assert same[0].counts == same[1].counts
        assert same[0].category == same[1].category == "dog"
        assert same[0].short == same[1].short == ()
    for root in (out, data):  # what `ureca mllm train` reads
        config = MllmTrainConfig(
            start_from="", data=(MllmDataConfig(root=str(root)),), held_out_every=0
        )
        taught = [record for record, _ in load_records(config)]
        assert sorted(len(record.long) for record in taught) == [1, 1, 1, 1]


def test_training_pictures_of_a_data_folder(tmp_path):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    ids = draw_ids()
    images, regions = [], []
    for key, panoptic in (("a", True), ("b", "semantic only"), ("c", True)):
        cv2.imwrite(str(root / "images" / f"{key}.jpg"), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
        images.append({"image_key": key, "panoptic": panoptic, "width": WIDTH, "height": HEIGHT})
        for n, name in ((DOG, "dog"), (GRASS, "grass")):
            packed = rle.encode(ids == n)
            regions.append(
                {
                    "region_id": f"{key}{n}",
                    "image_key": key,
                    "bbox": [0, 0, 1 + (n == GRASS), 1],
                    "rle": {"size": list(packed.size), "counts": packed.counts},
                    "category": name,
                    "stuff": n == GRASS,
                    "split": "train",
                }
            )
    for name, rows in (("images", images), ("regions", regions)):
        with gzip.open(root / f"{name}-train.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    read = read_segments(root)
    assert {picture.image_key for picture in read.pictures} <= {"a", "c"}
    key = read.pictures[0].image_key
    assert read.files[key] == f"{key}.jpg"
    assert read.make_categories() == [
        {"id": 1, "name": "dog", "isthing": 1},
        {"id": 2, "name": "grass", "isthing": 0},
    ]


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A brown dog lying in the grass.", "A brown dog lying in the grass."),
        ("Segment 3 is a dog.", None),
        ("The dog numbered 4.", None),
        ("The dog with a yellow line.", None),
        ("a dog marked #2", None),
        ("A", None),
        ("", None),
    ],
)
def test_captions_about_the_marks_are_refused(answer, caption):
    assert parse_segment_caption(answer) == caption


def test_pictures_of_a_json_must_be_named(coco, tmp_path):
    with pytest.raises(ConfigError, match="expected --images"):
        main(["panoptic", str(coco[0]), "-o", str(tmp_path / "out")])
