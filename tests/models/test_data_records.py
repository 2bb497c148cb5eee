"""Records of regions and pictures: read from JSON lines, faults named, real data covered."""

import gzip
import json
from collections import Counter
from itertools import islice

import pytest

from ureca.errors import SourceError
from ureca.models.data.images import ImageRecord, read_images
from ureca.models.data.regions import RegionRecord, read_regions

ROW = {
    "region_id": "p1_0",
    "image_key": "p1",
    "shard": "toy-000.tar",
    "source": "toy",
    "bbox": [1, 2, 3.5, 4],
    "rle": {"size": [10, 20], "counts": "dd0"},
    "expressions": ["a mug"],
    "expressions_long": None,
    "types": ["object"],
    "part": True,
    "group": False,
    "parent": "p1_9",
    "expr_source": "template",
    "split": "train",
    "license": "CC0",
    "colour": "an unknown field",
}


def test_a_full_and_a_bare_line():
    full = RegionRecord.from_json(ROW)
    assert (full.height, full.width) == (10, 20)
    assert full.box_xywh_px == (1.0, 2.0, 3.5, 4.0)
    assert full.short == ("a mug",)
    assert full.long == ()
    assert (full.part, full.stuff, full.group) == (True, False, False)
    assert (full.parent, full.expr_source, full.license) == ("p1_9", "template", "CC0")
    bare = RegionRecord.from_json({k: ROW[k] for k in ("region_id", "image_key", "bbox", "rle")})
    assert bare.category == ""
    assert bare.split == ""
    assert not bare.part


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [1, 2, 3]},
        {"bbox": None},
        {"rle": {"size": ["10", 20], "counts": ""}},
        {"rle": {"size": [10, 20], "counts": [1, 2]}},
        {"image_key": 7},
        {"expressions": [None]},
        {"category": {}, "source": 3},
    ],
)
def test_a_wrong_field_names_the_region(change):
    with pytest.raises(SourceError, match="p1_0"):
        RegionRecord.from_json({**ROW, **change})


@pytest.mark.parametrize("text", ["[1]\n", "nonsense\n", '{"region_id": "r"\n'])
def test_a_wrong_line_is_named(tmp_path, text):
    path = tmp_path / "regions-x.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + text)
    with pytest.raises(SourceError, match=":2: not a JSON object"):
        list(read_regions(path))


def test_half_a_file_is_named(tmp_path):
    path = tmp_path / "regions-x.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode() * 99)[:-20])
    with pytest.raises(SourceError, match="regions-x"):
        list(read_regions(path))


def test_pictures_are_read(tmp_path):
    row = {"image_key": "p1", "width": 4, "height": 3, "captions": ["A dog."], "photo_id": 12}
    (tmp_path / "i.jsonl").write_text(json.dumps(row) + "\n")
    assert list(read_images(tmp_path / "i.jsonl")) == [
        ImageRecord("p1", "", "", 4, 3, photo_id="12", captions=("A dog.",))
    ]
    with pytest.raises(SourceError, match="p2"):
        ImageRecord.from_json({"image_key": "p2"})


def test_every_source_of_the_data_is_covered(data_root):
    records = list(read_regions(data_root / "regions-train.jsonl.gz"))
    sources = Counter((r.shard.split("-")[0], r.expr_source) for r in records)
    assert set(sources) == {
        ("flickr", "human_phrase"),
        ("coco", "caption_np"),
        ("coco", "none"),
        ("cocap", "image_caption"),
        ("cocap", "none"),
        ("ccp", "none"),
    }
    assert all(r.split == "train" and r.license and r.mask_source for r in records)
    assert all(r.long and r.category == "image" for r in records if r.mask_source == "full_image")
    assert sum(r.group for r in records) > 7000
    assert sum(r.stuff for r in records) > 5000
    first = list(islice(read_images(data_root / "images-train.jsonl.gz"), 100))
    assert all(i.photo_id and len(i.captions) == 5 for i in first)
