"""COCO, and the files of its form: outlines, boxes, crowds, captions, licences, wrong rows."""

import struct

import cv2
import numpy as np
import pytest

from tests.readers.conftest import HEIGHT, WIDTH, dump, picture
from ureca.errors import ConfigError, SourceError
from ureca.protocol import rle

SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]
LICENSES = [
    {"id": 2, "name": "x", "url": "http://creativecommons.org/licenses/by-nc/2.0/"},
    {"id": 8, "name": "United States Government Work", "url": "http://www.usa.gov/copyright.shtml"},
]
CATEGORIES = [{"supercategory": "animal", "id": 18, "name": "dog"}, {"id": 1, "name": "person"}]


def image(number, file_name, **more):
    more = {
        "license": 2,
        "flickr_url": f"http://farm9.staticflickr.com/1/{number}77_a1b2_z.jpg",
    } | more
    return {"id": number, "file_name": file_name, "width": WIDTH, "height": HEIGHT, **more}


def region(number, image_id, segmentation, **more):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 18,
        "iscrowd": 0,
        "area": 400.0,
        "bbox": [10.0, 5.0, 20.0, 20.0],
        "segmentation": segmentation,
        **more,
    }


def instances(folder, regions, images=None):
    picture(folder / "val2017" / "000000000042.jpg")
    content = {
        "info": {"year": 2017},
        "licenses": LICENSES,
        "images": images or [image(42, "000000000042.jpg")],
        "annotations": regions,
        "categories": CATEGORIES,
    }
    return dump(folder / "instances_val2017.json", content)


def runs(mask):
    """Uncompressed run lengths, as COCO writes crowds."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return [0, *counts] if flat[0] else counts


def test_instances_and_captions_together(tmp_path, imported):
    square = np.zeros((HEIGHT, WIDTH), np.bool_)
    square[5:25, 10:30] = True
    file = instances(
        tmp_path,
        [
            region(1, 42, [SQUARE]),
            region(2, 42, {"size": [HEIGHT, WIDTH], "counts": runs(square)}, category_id=1),
            region(3, 42, {"size": [HEIGHT, WIDTH], "counts": rle.encode(square).counts}),
            region(4, 42, {"size": [HEIGHT, WIDTH], "counts": runs(square)}, iscrowd=1),
        ],
    )
    captions = dump(
        tmp_path / "captions_val2017.json",
        {
            "images": [image(42, "000000000042.jpg")],
            "annotations": [{"image_id": 42, "id": 9, "caption": "A dog  sits.\n"}],
        },
    )
    made = imported("coco", file, captions, "--pictures", tmp_path / "val2017", "--split", "val")
    assert made.left_out == {"crowd": 1}
    assert list(made.records) == ["coco_1", "coco_2", "coco_3"]
    for region_id, record in made.records.items():
        assert np.array_equal(made.mask(region_id), square)
        assert record.box_xywh_px == (10, 5, 20, 20)
        assert (record.source, record.split, record.license) == ("coco", "val", "CC BY-NC 2.0")
        assert (record.mask_source, record.short, record.expr_source) == ("gt:coco", (), "none")
    assert [r.category for r in made.records.values()] == ["dog", "person", "dog"]
    (listed,) = made.data.images
    assert (listed.image_key, listed.photo_id) == ("mscoco_000000000042", "4277")
    assert listed.captions == ("A dog sits.",)
    assert (made.root / "regions-val.jsonl.gz").is_file()
    assert made.store.read("mscoco_000000000042").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("bad mask", region(2, 42, [[1.0, 2.0, 3.0, 4.0]])),
        ("bad mask", region(2, 42, [[1.0, 2.0, 3.0, 4.0, 5.0, 9e9]])),
        ("bad mask", region(2, 42, [[-9e9, 2.0, 3.0, 4.0, 5.0, 9.0]])),
        ("bad mask", region(2, 42, [[[[1.0]] * 3] * 3])),
        ("bad mask", region(2, 42, {"size": 3})),
        ("bad mask", region(2, 42, "outline")),
        ("bad mask", region(2, 42, [["1", 2.0, 3.0, 4.0, 5.0, 6.0]])),
        ("bad mask", region(2, 42, [[1.0] * 300_000])),
        ("bad mask", region(2, 42, {"size": [HEIGHT, WIDTH], "counts": [5, 7]})),
        ("bad mask", region(2, 42, {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]})),
        ("bad mask", region(2, 42, {"size": [99999, 99999], "counts": [99999**2]})),
        ("bad mask", region(2, 42, {"size": [HEIGHT, WIDTH], "counts": "~~"})),
        ("bad mask", region(2, 42, [], bbox=[1.0, 1.0, 0.0, 4.0])),
        ("empty mask", region(2, 42, {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]})),
        ("empty mask", region(2, 42, [], bbox=[500.0, 1.0, 4.0, 4.0])),
        ("nothing said", region(2, 42, [SQUARE], category_id=77)),
        ("malformed", region("two", 42, [SQUARE])),
        ("malformed", {"id": 2}),
        ("no such picture", region(2, 43, [SQUARE])),
    ],
)
def test_a_wrong_row_is_counted_and_costs_no_other(tmp_path, imported, reason, row):
    file = instances(tmp_path, [region(1, 42, [SQUARE]), row])
    made = imported("coco", file, "--pictures", tmp_path / "val2017")
    assert made.left_out == {reason: 1}
    assert list(made.records) == ["coco_1"]


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("bad picture name", image(43, "../secret.jpg")),
        ("bad picture name", image(43, "/etc/secret.jpg")),
        ("no such picture", image(43, "absent.jpg")),
        ("broken picture", image(43, "text.jpg")),
        ("wrong picture size", image(43, "000000000042.jpg", width=WIDTH + 1)),
        ("picture too large", image(43, "bomb.png", width=30_000, height=30_000)),
    ],
)
def test_a_wrong_picture_is_counted(tmp_path, imported, reason, entry):
    images = [image(42, "good.jpg"), entry]
    file = instances(tmp_path, [region(1, 42, [SQUARE]), region(2, 43, [SQUARE])], images)
    picture(tmp_path / "secret.jpg")
    picture(tmp_path / "val2017" / "good.jpg")
    (tmp_path / "val2017" / "text.jpg").write_text("no picture")
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    (tmp_path / "val2017" / "bomb.png").write_bytes(
        head + (30_000).to_bytes(4, "big") * 2 + b"\0" * 9
    )
    made = imported("coco", file, "--pictures", tmp_path / "val2017")
    assert made.left_out == {reason: 1}
    assert [r.image_key for r in made.records.values()] == ["coco_good"]


def test_a_picture_is_not_turned(tmp_path, imported):
    """Annotations are made on the pixels as they are stored, EXIF or not."""
    file = instances(tmp_path, [region(1, 42, [SQUARE])])
    path = tmp_path / "val2017" / "000000000042.jpg"
    turned = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)  # one entry: orientation 6
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + turned
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert cv2.imread(str(path)).shape == (WIDTH, HEIGHT, 3)  # a viewer turns it
    made = imported("coco", file, "--pictures", tmp_path / "val2017")
    assert made.store.read("mscoco_000000000042").shape == (HEIGHT, WIDTH, 3)


def test_a_row_that_is_nested_deeply_costs_no_other(tmp_path, imported):
    file = instances(tmp_path, [region(1, 42, [SQUARE]), region(2, 42, "deep")])
    file.write_text(file.read_text().replace('"deep"', "[" * 900 + "]" * 900))
    made = imported("coco", file, "--pictures", tmp_path / "val2017")
    assert made.left_out == {"bad mask": 1}
    file.write_text(
        file.read_text().replace("[" * 900, "[" * 90_000).replace("]" * 900, "]" * 90_000)
    )
    with pytest.raises(SourceError, match="not of this format"):
        imported("coco", file, "--pictures", tmp_path / "val2017", out="deep")


def test_boxes_with_words_are_regions(tmp_path, imported):
    """GRiT's preprocessed Visual Genome."""
    picture(tmp_path / "vg" / "7.jpg")
    rows = [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 10], "caption": "a red ball"},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [20, 2, 99, 10], "caption": "the wall"},
    ]
    content = {"images": [image(7, "7.jpg")], "annotations": rows}
    file = dump(tmp_path / "test.json", {**content, "categories": [{"id": 1, "name": "object"}]})
    words = ("coco", file, "--pictures", tmp_path / "vg", "--name", "vg", "--split", "test")
    made = imported(*words)
    ball, wall = made.records["vg_1"], made.records["vg_2"]
    assert (ball.short, ball.category, ball.mask_source) == (("a red ball",), "", "box")
    assert (ball.image_key, ball.box_xywh_px) == ("vg_7", (1, 2, 10, 10))
    assert wall.box_xywh_px == (20, 2, 40, 10)  # cut off at the edge


def test_mdetr_lists_a_picture_for_every_expression(tmp_path, imported):
    """`finetune_refcocog_val_with_mask.json`: one "image" and one annotation per expression."""
    name = "COCO_train2014_000000000042.jpg"
    picture(tmp_path / "train2017" / "000000000042.jpg")  # the same photograph, as 2017 names it
    said = ["the small dog", "a dog that lies on the bed at left", "the bed"]
    images = [image(i, name, caption=text, dataset_name="refcocog") for i, text in enumerate(said)]
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[3:9, 4:20] = True
    code = {"size": [HEIGHT, WIDTH], "counts": rle.encode(mask).counts}
    rows = [
        region(0, 0, [SQUARE], original_id=5, tokens_positive=[[0, 3]]),
        region(1, 1, [SQUARE], original_id=5),
        region(2, 2, [code, code], original_id=6),
    ]
    content = {"images": images, "annotations": rows, "categories": [{"id": 18, "name": "object"}]}
    file = dump(tmp_path / "finetune_refcocog_val_with_mask.json", content)
    words = ("coco", file, "--pictures", tmp_path / "train2017", "--name", "refcocog")
    made = imported(*words, "--split", "val")
    dog, bed = made.records["refcocog_5"], made.records["refcocog_6"]
    assert dog.short == ("the small dog",)
    assert dog.long == ("a dog that lies on the bed at left",)
    assert (dog.category, dog.image_key) == ("", "mscoco_000000000042")
    assert np.array_equal(made.mask("refcocog_6"), mask)
    assert bed.short == ("the bed",)
    assert made.report["pictures"] == 1


def test_one_photograph_in_two_sources_is_no_duplicate(tmp_path, imported, capsys):
    from ureca.models.data.cli import main

    file = instances(tmp_path, [region(1, 42, [SQUARE])])
    words = ("coco", file, "--pictures", tmp_path / "val2017")
    roots = [imported(*words, "--name", name, out=name).root for name in ("refcoco", "refcoco+")]
    assert main(["check", *map(str, roots)]) == 0
    capsys.readouterr()
    again = imported(*words, "--name", "refcoco", out="again").root
    assert main(["check", str(roots[0]), str(again)]) == 1
    assert "duplicate picture" in capsys.readouterr().out


def test_refusals(tmp_path, imported):
    file = instances(tmp_path, [region(1, 42, [SQUARE])])
    with pytest.raises(ConfigError, match="--pictures"):
        imported("coco", file)
    with pytest.raises(ConfigError, match="not found"):
        imported("coco", tmp_path / "absent.json", "--pictures", tmp_path)
    with pytest.raises(ConfigError, match="--split"):
        imported("coco", file, "--pictures", tmp_path, "--split", "../x")
    with pytest.raises(ConfigError, match=r"no region could be kept.*no such picture"):
        imported("coco", file, "--pictures", tmp_path)
    for text in ("[]", '{"images": 3}', "[" * 100_000, "\udcff"):
        (tmp_path / "wrong.json").write_text(text, "utf8", "surrogateescape")
        with pytest.raises(SourceError, match="not of this format"):
            imported("coco", tmp_path / "wrong.json", "--pictures", tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".out", "out"))]
