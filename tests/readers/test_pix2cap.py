"""Pix2Cap-COCO: segments are colours of a PNG, each with a description."""

import cv2
import numpy as np
import pytest

from tests.readers.conftest import HEIGHT, WIDTH, dump, picture
from tests.readers.test_coco import image
from ureca.errors import SourceError

CAT, GRASS = 5_000_001, 300
TEXT = "A brown cat lying in the grass, its head turned to the left."


def segment(number, category_id, **more):
    more = {"description": TEXT, "iscrowd": 0} | more
    return {"id": number, "category_id": category_id, "area": 1, "bbox": [0, 0, 1, 1], **more}


@pytest.fixture
def files(tmp_path):
    picture(tmp_path / "val2017" / "000000000042.jpg")
    ids = np.full((HEIGHT, WIDTH), GRASS)
    ids[5:15, 20:40] = CAT
    png = tmp_path / "panoptic_val2017" / "000000000042.png"
    png.parent.mkdir()
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    cv2.imwrite(str(png), colours[..., ::-1])
    segments = [
        segment(CAT, 17),
        segment(GRASS, 193, description=""),
        segment(77, 17),
        segment(78, 17, iscrowd=1),
        {"id": "x"},
    ]
    rows = [
        {"image_id": 42, "file_name": png.name, "segments_info": segments},
        {"image_id": 43, "file_name": "absent.png", "segments_info": [segment(1, 17)]},
        {"image_id": 44, "file_name": "../secret.png", "segments_info": [segment(1, 17)]},
    ]
    categories = [
        {"id": 17, "name": "cat", "isthing": 1},
        {"id": 193, "name": "grass-merged", "isthing": 0},
    ]
    content = {"images": [image(42, "000000000042.jpg")], "annotations": rows}
    file = dump(tmp_path / "pix2cap_coco_val.json", {**content, "categories": categories})
    return file, png.parent


def test_segments_are_regions(tmp_path, files, imported):
    made = imported("pix2cap", *files, "--pictures", tmp_path / "val2017", "--split", "val")
    cat, grass = made.records[f"pix2cap_42_{CAT}"], made.records[f"pix2cap_42_{GRASS}"]
    expected = np.zeros((HEIGHT, WIDTH), np.bool_)
    expected[5:15, 20:40] = True
    assert np.array_equal(made.mask(cat.region_id), expected)
    assert np.array_equal(made.mask(grass.region_id), ~expected)
    assert (cat.long, cat.short, cat.category, cat.stuff) == ((TEXT,), (), "cat", False)
    assert (grass.long, grass.category, grass.stuff) == ((), "grass-merged", True)
    assert made.left_out == {
        "no such panoptic PNG": 2,
        "empty mask": 1,
        "crowd": 1,
        "malformed": 1,
    }


def test_a_png_of_another_size_is_no_mask(tmp_path, files, imported):
    cv2.imwrite(str(files[1] / "000000000042.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(Exception, match="bad mask"):
        imported("pix2cap", *files, "--pictures", tmp_path / "val2017")


def test_the_folder_is_needed(tmp_path, files, imported):
    with pytest.raises(SourceError, match="panoptic PNGs"):
        imported("pix2cap", files[0], "--pictures", tmp_path)
