"""RefCOCOm: lists of segments with their sentences, as CRIS prepares them, and PNGs of masks."""

import cv2
import numpy as np
import pytest

from tests.readers.conftest import HEIGHT, WIDTH, dump, picture
from ureca.errors import SourceError
from ureca.models.data.queries import read_queries

NAME = "COCO_train2014_000000000042.jpg"


def row(segment, *texts):
    """One of the list, as the data preparation of CRIS writes it."""
    return {
        "bbox": [10, 5, 30, 25],
        "cat": 16,
        "segment_id": segment,
        "img_name": NAME,
        "sentences": [{"idx": i, "sent_id": 7 + i, "sent": t} for i, t in enumerate(texts)],
        "sentences_num": len(texts),
    }


def mask(path, box, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 255
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def files(tmp_path):
    picture(tmp_path / "train2014" / NAME)
    mask(tmp_path / "masks" / "5.png", (10, 5, 30, 25))
    mask(tmp_path / "masks" / "6.png", (0, 0, 0, 0))
    mask(tmp_path / "masks" / "7.png", (0, 0, 9, 9), size=(9, 9))
    mask(tmp_path / "part_masks" / "5.png", (10, 5, 14, 9))
    things = dump(
        tmp_path / "val.json",
        [
            row(5, "the dog", "dog on the left"),
            row(6, "empty"),
            row(7, "small"),
            row(8, "gone"),
            {},
        ],
    )
    parts = dump(tmp_path / "part" / "val.json", [row(5, "the dog's left ear")])
    return things, parts, tmp_path / "masks", tmp_path / "part_masks"


def test_parts_and_objects_are_told_apart(tmp_path, files, imported):
    made = imported("refcocom", *files, "--pictures", tmp_path / "train2014")
    dog, ear = made.records["refcocom_5"], made.records["refcocom_part5"]
    assert (dog.short, dog.part, dog.split) == (("the dog", "dog on the left"), False, "val")
    assert (ear.short, ear.part, ear.mask_source) == (("the dog's left ear",), True, "gt:refcocom")
    assert made.mask("refcocom_5").sum() == 400
    assert made.mask("refcocom_part5").sum() == 16
    assert made.left_out == {
        "malformed": 1,
        "empty mask": 1,
        "bad mask": 2,
        "text without its region": 3,
    }
    queries = list(read_queries(made.root / "queries-val.jsonl.gz"))
    assert [(q.text, q.kind) for q in queries] == [
        ("the dog", "thing"),
        ("dog on the left", "thing"),
        ("the dog's left ear", "part"),
    ]
    assert dog.image_key == "mscoco_000000000042"


def test_names_that_leave_the_folder_of_masks_are_not_followed(tmp_path, files, imported):
    sly = dump(tmp_path / "sly" / "val.json", [row("../part_masks/5", "x"), row(5, "the dog")])
    made = imported("refcocom", sly, files[2], "--pictures", tmp_path / "train2014")
    assert list(made.records) == ["refcocom_5"]
    assert made.left_out == {"bad mask": 1, "text without its region": 1}


def test_masks_are_needed(tmp_path, files, imported):
    with pytest.raises(SourceError, match="the folder of their masks"):
        imported("refcocom", files[0], "--pictures", tmp_path)
