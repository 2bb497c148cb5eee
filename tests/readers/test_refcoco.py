"""RefCOCO's refs as JSON beside instances.json; a pickle is refused."""

import pickle

import pytest

from tests.readers.conftest import dump, picture
from tests.readers.test_coco import CATEGORIES, LICENSES, SQUARE, image, region
from ureca.errors import ConfigError, SourceError

NAME, OTHER = "COCO_train2014_000000000042.jpg", "COCO_train2014_000000000043.jpg"


def ref(number, ann_id, split, *texts, image_id=42):
    sentences = [
        {"tokens": t.split(), "raw": t.title(), "sent_id": i, "sent": t}
        for i, t in enumerate(texts)
    ]
    return {
        "ref_id": number,
        "ann_id": ann_id,
        "image_id": image_id,
        "file_name": "COCO_train2014_000000000042_3.jpg",
        "split": split,
        "sent_ids": [1],
        "category_id": 18,
        "sentences": sentences,
    }


@pytest.fixture
def files(tmp_path):
    for name in (NAME, OTHER):
        picture(tmp_path / "train2014" / name)
    content = {
        "images": [image(42, NAME), image(43, OTHER)],
        "annotations": [region(1, 42, [SQUARE]), region(2, 43, [SQUARE], category_id=1)],
        "categories": CATEGORIES,
        "licenses": LICENSES,
    }
    refs = [
        ref(0, 1, "train", "dog", "left dog"),
        ref(1, 1, "train", "the brown dog that lies near the door"),
        ref(2, 2, "val", "woman in red", "", image_id=43),
        ref(3, 9, "val", "nobody"),
        {"ref_id": "broken"},
    ]
    return dump(tmp_path / "refs(umd).json", refs), dump(tmp_path / "instances.json", content)


def test_refs_of_one_region_are_joined(tmp_path, files, imported):
    made = imported("refcoco", *files, "--pictures", tmp_path / "train2014", "--name", "refcocog")
    dog, woman = made.records["refcocog_1"], made.records["refcocog_2"]
    assert dog.short == ("dog", "left dog")
    assert dog.long == ("the brown dog that lies near the door",)
    assert (dog.category, dog.split, dog.license) == ("dog", "train", "CC BY-NC 2.0")
    assert (woman.short, woman.category, woman.split) == (("woman in red",), "person", "val")
    assert made.left_out == {"no such region": 1, "malformed": 1}


def test_one_split_and_the_other_order(tmp_path, files, imported):
    words = ("refcoco", *files[::-1], "--pictures", tmp_path / "train2014")
    made = imported(*words, "--split", "val")
    assert list(made.records) == ["refcoco_2"]
    assert (made.root / "regions-val.jsonl.gz").is_file()
    with pytest.raises(ConfigError, match=r"no picture of split 'testA'.*train.*val"):
        imported(*words, "--split", "testA", out="none")


def test_a_pickle_is_not_read(tmp_path, files, imported):
    class Bang:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    for name in ("refs(umd).p", "refs.json"):
        (tmp_path / name).write_bytes(pickle.dumps([Bang()]))
        with pytest.raises(SourceError, match=r"pickle.*convert it to JSON"):
            imported("refcoco", tmp_path / name, files[1], "--pictures", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_both_files_are_needed(tmp_path, files, imported):
    for one in files:
        with pytest.raises(SourceError, match="expected a list of refs and instances"):
            imported("refcoco", one, "--pictures", tmp_path)
