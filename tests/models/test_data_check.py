"""`ureca data check`: every kind of fault is found and named, a good folder passes and is drawn."""

import gzip
import io
import json
import tarfile
from itertools import islice

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from ureca.errors import ConfigError, SourceError
from ureca.models.data.check import (
    check_photographs,
    check_record,
    check_splits,
    check_texts,
    compute_tight_box,
)
from ureca.models.data.cli import main
from ureca.models.data.images import ImageRecord
from ureca.models.data.regions import HELD_OUT_EVERY, RegionRecord, hash_image_key, read_regions
from ureca.protocol import rle

EMPTY = rle.encode(np.zeros((30, 40), np.bool_)).counts


@pytest.fixture(autouse=True)
def _no_tqdm_thread(monkeypatch):
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


def region(number, **changes):
    mask = np.zeros((30, 40), np.bool_)
    mask[5:15, 10:30] = True
    row = {
        "region_id": f"r{number}",
        "image_key": f"p{number % 3}",
        "shard": "toy-000.tar",
        "source": "toy",
        "split": "train",
        "license": "CC0",
        "bbox": [10, 5, 20, 10],
        "rle": {"size": [30, 40], "counts": rle.encode(mask).counts},
        "mask_source": "gt:toy",
        "category": "mug",
        "expressions": ["a red mug"],
        "expressions_long": ["a red mug to the left of a plate"],
    }
    return row | changes


def picture(key, **changes):
    return {"image_key": key, "width": 40, "height": 30, "split": "train", **changes}


def write(root, regions, images=None, tar=("p0", "p1", "p2")):
    (root / "images").mkdir(parents=True)
    rows = images if images is not None else [picture(k) for k in tar]
    for name, lines in (("regions", regions), ("images", rows)):
        with gzip.open(root / f"{name}-train.jsonl.gz", "wt") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)
    with tarfile.open(root / "images" / "toy-000.tar", "w") as archive:
        for shade, key in enumerate(tar):
            pixels = np.full((30, 40, 3), 40 * shade, np.uint8)
            data = cv2.imencode(".png", pixels)[1].tobytes() if key != "broken" else b"nonsense"
            member = tarfile.TarInfo(f"{key}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return root


def found(root, capsys, *more):
    code = main(["check", "--json", str(root), *map(str, more)])
    report = json.loads(capsys.readouterr().out)
    assert code == (1 if report["faults"] else 0)
    return report


def test_a_good_folder_passes_and_is_drawn(tmp_path, capsys):
    root = write(tmp_path / "good", [region(i) for i in range(6)])
    report = found(root, capsys, "-o", tmp_path / "out", "--sheet", 4)
    assert report["findings"] == {}
    assert report["totals"]["regions"] == 6
    assert report["totals"]["pictures"] == 3
    assert report["regions_by"]["style"] == {"short and long": 6}
    assert report["regions_by"]["licence"] == {"CC0": 6}
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    sheet = cv2.imread(str(tmp_path / "out" / "sheet-00.png"))
    assert sheet.shape[0] > 200
    assert (sheet == (40, 40, 255)).all(axis=2).any()


def test_the_table_is_for_people(tmp_path, capsys):
    root = write(tmp_path / "bad", [region(0), region(0)])
    assert main(["check", str(root)]) == 1
    text = capsys.readouterr().out
    assert "regions by mask source" in text
    assert "FAULT  duplicate region: r0" in text


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("unreadable record", {"bbox": [1]}),
        ("bad mask", {"rle": {"size": [30, 40], "counts": "~~"}}),
        ("empty mask", {"rle": {"size": [30, 40], "counts": EMPTY}}),
        ("box outside the picture", {"bbox": [10, 5, 90, 10]}),
        ("mask outside its box", {"bbox": [14, 5, 16, 10]}),
        ("empty text", {"expressions": [" "]}),
        ("duplicate region", {"region_id": "r1"}),
        ("missing picture", {"image_key": "p9"}),
        ("undecodable picture", {"image_key": "broken"}),
        ("leak between splits", {"image_key": "p1", "split": "test"}),
    ],
)
def test_a_fault_is_named(tmp_path, capsys, kind, change):
    rows = [region(0), region(1), region(2, **change)]
    report = found(write(tmp_path / "bad", rows, tar=("p0", "p1", "p2", "broken")), capsys)
    assert report["findings"] == {kind: 1}
    assert report["first_faults"][0].startswith(kind)


def test_pictures_of_another_size_and_lines_cut_short_are_named(tmp_path, capsys):
    mask = rle.encode(np.ones((31, 40), np.bool_)).counts
    odd = region(0, rle={"size": [31, 40], "counts": mask}, bbox=[0, 0, 40, 31])
    root = write(tmp_path / "bad", [odd])
    with gzip.open(root / "regions-train.jsonl.gz", "at") as out:
        out.write('{"region_id": ')
    assert found(root, capsys)["findings"] == {"unreadable record": 1, "wrong picture size": 1}


def test_a_photograph_is_held_out_everywhere_or_nowhere():
    held = next(f"k{i}" for i in range(99) if hash_image_key(f"k{i}") % 20 == 0)
    kept = next(f"k{i}" for i in range(99) if hash_image_key(f"k{i}") % 20)
    images = [ImageRecord(key, "", "", 4, 4, photo_id="7") for key in (held, kept)]
    assert [f.kind for f in check_photographs(images, 20)] == ["leak of a photograph"]
    assert not list(check_photographs(images[:1] * 2, 20))


def test_the_same_pixels_under_two_keys_are_a_leak(tmp_path, capsys):
    held = next(f"k{i}" for i in range(99) if hash_image_key(f"k{i}") % HELD_OUT_EVERY == 0)
    kept = next(f"k{i}" for i in range(99) if hash_image_key(f"k{i}") % HELD_OUT_EVERY)
    root = write(tmp_path / "a", [region(0, image_key=held)], tar=(held,))
    other = write(tmp_path / "b", [region(1, image_key=kept)], tar=(kept,))
    assert found(root, capsys, other)["findings"] == {"leak of a photograph": 1}
    assert found(root, capsys, other, "--held-out-every", 1)["findings"] == {}


def test_pictures_stand_in_one_split_only():
    assert not list(check_splits([("a", "train"), ("a", "train"), ("b", "test")]))
    assert [f.where for f in check_splits([("a", "train"), ("a", "dev")])] == ["a"]


def test_texts_that_the_captioner_cannot_keep_are_notes():
    record = RegionRecord.from_json(region(0, expressions=["a naïve mug", "one two three four"]))
    notes = list(check_texts([record] * 2, lambda t: [ord(c) for c in t if c.isascii()], 16))
    assert [n.kind for n in notes] == ["unknown characters", "too long", "too long"]
    assert not any(n.is_fault for n in notes)
    same = RegionRecord.from_json(region(0, expressions_long=["a red mug"]))
    assert [(n.kind, n.is_fault) for n in check_record(same)] == [("long repeats short", False)]


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no regions-\*"):
        main(["check", str(tmp_path)])
    (tmp_path / "regions-x.jsonl").write_text("")
    with pytest.raises(SourceError, match="no pictures"):
        main(["check", str(tmp_path)])


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_tight_box_of_runs_is_that_of_the_mask(height, width, random):
    mask = np.array([[random.random() < 0.15 for _ in range(width)] for _ in range(height)])
    code = rle.encode(mask)
    box = compute_tight_box(rle.check(code), height)
    if not mask.any():
        assert box is None
        return
    ys, xs = np.nonzero(mask)
    assert box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_real_records_have_no_fault(data_root):
    records = islice(read_regions(data_root / "regions-train.jsonl.gz"), 0, None, 50)
    assert not [str(f) for record in records for f in check_record(record)]
