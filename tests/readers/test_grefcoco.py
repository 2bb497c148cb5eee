"""gRefCOCO: expressions of one object, of several, and of nothing in the picture."""

import pytest

from tests.readers.conftest import dump, picture
from tests.readers.test_coco import CATEGORIES, LICENSES, SQUARE, image, region
from ureca.errors import SourceError
from ureca.models.data.queries import read_queries
from ureca.models.evaluation.res.cases import read_pictures

NAME = "COCO_train2014_000000000042.jpg"
LEFT = [2.0, 2.0, 8.0, 2.0, 8.0, 30.0, 2.0, 30.0]


def gref(number, ann_ids, split, *texts, image_id=42, **more):
    """One of the list, as the authors publish it."""
    sentences = [
        {
            "tokens": t.split(),
            "raw": t.title(),
            "sent_id": 10 * number + i,
            "sent": t,
            "exist": True,
        }
        for i, t in enumerate(texts)
    ]
    return {
        "ref_id": number,
        "ann_id": ann_ids,
        "image_id": image_id,
        "file_name": "COCO_train2014_000000000042_3.jpg",
        "split": split,
        "category_id": [18] * len(ann_ids) if isinstance(ann_ids, list) else 18,
        "no_target": ann_ids == [-1],
        "sentences": sentences,
        "sent_ids": [10 * number],
        **more,
    }


@pytest.fixture
def files(tmp_path):
    picture(tmp_path / "train2014" / NAME)
    content = {
        "images": [image(42, NAME)],
        "annotations": [
            region(1, 42, [SQUARE]),
            region(2, 42, [LEFT], category_id=1),
            region(3, 42, [[1.0, 31.0, 9.0, 31.0, 9.0, 39.0]]),
            region(4, 42, [SQUARE], iscrowd=1),
        ],
        "categories": CATEGORIES,
        "licenses": LICENSES,
    }
    grefs = [
        gref(0, [1], "val", "the brown dog"),
        gref(1, [1, 2], "val", "the dog and the woman", "both"),
        gref(2, [-1], "val", "the cat on the left"),
        gref(3, 2, "val", "a woman"),  # of RefCOCO itself: one number
        gref(4, [9], "val", "nobody"),
        gref(5, [1], "val", "elsewhere", image_id=77),
        gref(6, [3], "train", "a puppy"),
        {"ref_id": 7},
    ]
    return dump(tmp_path / "grefs(unc).json", grefs), dump(tmp_path / "instances.json", content)


def test_one_several_and_none(tmp_path, files, imported):
    made = imported("grefcoco", *files, "--pictures", tmp_path / "train2014", "--split", "val")
    assert made.left_out == {
        "malformed": 1,
        "no such picture": 1,
        "text without its region": 1,
    }
    # Every object of the picture is a candidate, also what nobody spoke of; the crowd is none.
    assert set(made.records) == {"grefcoco_1", "grefcoco_2", "grefcoco_3"}
    assert made.records["grefcoco_1"].short == ("the brown dog",)
    assert made.records["grefcoco_3"].short == ()
    queries = list(read_queries(made.root / "queries-val.jsonl.gz"))
    assert [(q.text, q.targets, q.kind) for q in queries] == [
        ("the brown dog", ("grefcoco_1",), "thing"),
        ("the dog and the woman", ("grefcoco_1", "grefcoco_2"), "several"),
        ("both", ("grefcoco_1", "grefcoco_2"), "several"),
        ("the cat on the left", (), "none"),
        ("a woman", ("grefcoco_2",), "thing"),
    ]
    assert len({query.query_id for query in queries}) == 5
    assert made.report["queries"] == 5


def test_the_evaluation_asks_what_the_file_asks(tmp_path, files, imported):
    made = imported("grefcoco", *files, "--pictures", tmp_path / "train2014", "--split", "val")
    (asked,) = read_pictures(made.root, every=16)
    assert [len(case.targets) for case in asked.cases] == [1, 2, 2, 0, 1]
    assert len(asked.regions) == 3


def test_queries_go_along_into_shards_and_back(tmp_path, files, imported, capsys):
    from ureca.models.data.cli import main

    made = imported("grefcoco", *files, "--pictures", tmp_path / "train2014", "--split", "val")
    assert main(["shards", str(made.root), "-o", str(tmp_path / "shards"), "--json"]) == 0
    capsys.readouterr()
    again = imported("webdataset", tmp_path / "shards" / "images", out="again")
    first, second, packed = (
        list(read_queries(root / "queries-val.jsonl.gz"))
        for root in (made.root, again.root, tmp_path / "shards")
    )
    assert first == second == packed


def test_both_files_are_needed(tmp_path, files, imported):
    with pytest.raises(SourceError, match="expected a list of refs and instances"):
        imported("grefcoco", files[0], "--pictures", tmp_path)
