"""URECA's JSON lines over SA-1B's folder."""

import json

import numpy as np
import pytest

from tests.readers.conftest import HEIGHT, WIDTH, dump, picture
from ureca.errors import SourceError
from ureca.protocol import rle

MASK = np.zeros((HEIGHT, WIDTH), np.bool_)
MASK[10:20, 10:30] = True


def row(number, stem, mask_id, text):
    return {
        "id": number,
        "image": stem,
        "mask_id": mask_id,
        "conversations": [
            {"from": "human", "value": "<image>\n<mask>\nSay what this is."},
            {"from": "gpt", "value": text},
        ],
    }


@pytest.fixture
def sa1b(tmp_path):
    folder = tmp_path / "SA1B" / "sa_000020"
    picture(folder / "sa_223750.jpg")
    code = {"size": [HEIGHT, WIDTH], "counts": rle.encode(MASK).counts}
    annotations = [
        {"id": 532, "segmentation": code, "bbox": [10, 10, 20, 10], "predicted_iou": 0.9},
        {"id": 533, "segmentation": {**code, "size": [9, 9]}},
    ]
    size = {"image_id": 223750, "width": WIDTH, "height": HEIGHT, "file_name": "sa_223750.jpg"}
    dump(folder / "sa_223750.json", {"image": size, "annotations": annotations})
    (folder / "sa_5.json").write_text("{")
    return folder.parent


def write(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows) + "no JSON\n\n")
    return path


def test_captions_meet_their_masks(tmp_path, sa1b, imported):
    rows = [
        row(0, "sa_223750", "532", "A red cup."),
        row(1, "sa_223750", "532", "A red cup with a white handle on a wooden table."),
        row(2, "sa_223750", "533", "A mask of another size."),
        row(3, "sa_223750", "999", "No mask."),
        row(4, "sa_1", "1", "No picture."),
        row(5, "sa_5", "1", "A broken file."),
    ]
    made = imported("ureca", write(tmp_path / "ureca_train.jsonl", rows), sa1b)
    (record,) = made.records.values()
    assert (record.region_id, record.image_key) == ("ureca_223750_532", "sa_223750")
    assert record.long == (
        rows[0]["conversations"][1]["value"],
        rows[1]["conversations"][1]["value"],
    )
    assert (record.short, record.mask_source, record.split) == ((), "pseudo:sa1b", "train")
    assert np.array_equal(made.mask(record.region_id), MASK)
    assert made.left_out == {
        "malformed": 2,
        "bad mask": 1,
        "no such mask": 1,
        "no such picture": 1,
    }


def test_the_test_set_is_told_by_its_name(tmp_path, sa1b, imported):
    file = write(tmp_path / "ureca_test.jsonl", [row(0, "sa_223750", 532, "A red cup.")])
    made = imported("ureca", file, sa1b)
    assert [record.split for record in made.records.values()] == ["test"]
    assert made.data.records[0].license.startswith("SA-1B")


def test_both_are_needed(tmp_path, sa1b, imported):
    with pytest.raises(SourceError, match="expected URECA's"):
        imported("ureca", sa1b)
