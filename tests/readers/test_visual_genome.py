"""Visual Genome: boxes with phrases, sizes from image_data, splits from another file."""

import pytest

from tests.readers.conftest import HEIGHT, WIDTH, dump, picture
from ureca.errors import SourceError


def described(number, phrase, **box):
    box = {"x": 3, "y": 4, "width": 10, "height": 12} | box
    return {"region_id": number, "image_id": 1, "phrase": phrase, **box}


@pytest.fixture
def files(tmp_path):
    picture(tmp_path / "VG_100K" / "1.jpg")
    picture(tmp_path / "VG_100K_2" / "2.jpg", 200)
    regions = [
        described(11, "the clock is green"),
        described(12, "a sign on the facade of the building"),
        described(13, "  "),
        described(14, "off", x=900),
        {"region_id": 15, "phrase": "no box"},
    ]
    rows = [{"id": 1, "regions": regions}, {"id": 2, "regions": [described(21, "a cat")]}]
    rows.append({"id": 3, "regions": [described(31, "nowhere")]})
    images = [
        {
            "image_id": i,
            "url": "",
            "width": WIDTH,
            "height": HEIGHT,
            "coco_id": None,
            "flickr_id": f,
        }
        for i, f in ((1, None), (2, 99))
    ]
    return (
        dump(tmp_path / "image_data.json", images),
        dump(tmp_path / "region_descriptions.json", rows),
    )


def test_regions_of_both_folders(tmp_path, files, imported):
    words = ("vg", *files, "--pictures", tmp_path / "VG_100K", tmp_path / "VG_100K_2")
    made = imported(*words)
    clock, sign = made.records["vg_11"], made.records["vg_12"]
    assert (clock.short, clock.mask_source) == (("the clock is green",), "box")
    assert sign.long == ("a sign on the facade of the building",)
    assert clock.box_xywh_px == (3, 4, 10, 12)
    assert made.mask("vg_11").sum() == 120
    assert made.left_out == dict.fromkeys(
        ("nothing said", "empty mask", "malformed", "no such picture"), 1
    )
    assert [i.photo_id for i in made.data.images] == ["", "99"]


def test_a_file_of_splits(tmp_path, files, imported):
    splits = dump(tmp_path / "densecap_splits.json", {"train": [1], "val": [], "test": [2, 3]})
    words = ("vg", *files, splits, "--pictures", tmp_path / "VG_100K", tmp_path / "VG_100K_2")
    made = imported(*words, "--split", "test")
    assert list(made.records) == ["vg_21"]


def test_both_files_are_needed(tmp_path, files, imported):
    for one in files:
        with pytest.raises(SourceError, match="expected region_descriptions"):
            imported("vg", one, "--pictures", tmp_path)
