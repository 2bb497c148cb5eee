"""`ureca caption` over the scripted engine: grouping, styles, controls, failures and resuming."""

import json

import cv2
import numpy as np
import pytest

from ureca.errors import SourceError
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.evaluation.caption import (
    Captioned,
    FailedCaption,
    caption_records,
    choose_style,
    read_captioned_ids,
)
from ureca.protocol import rle
from ureca.testing import ScriptedEngine

SIZE = (40, 60)


def record(region_id, image_key, *, mask=None, **fields):
    if mask is None:
        mask = np.zeros(SIZE, np.bool_)
        mask[4:20, 4:20] = True
    code = rle.encode(mask)
    return RegionRecord(
        region_id=region_id,
        image_key=image_key,
        shard="",
        source="test",
        height=code.size[0],
        width=code.size[1],
        counts=fields.pop("counts", code.counts),
        box_xywh_px=(4, 4, 16, 16),
        **fields,
    )


@pytest.fixture
def store(tmp_path):
    image = np.full((*SIZE, 3), 255, np.uint8)
    image[:20] = (0, 0, 255)  # BGR: the upper half is red
    for name in ("one", "two"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    return ImageStore([tmp_path])


def test_each_picture_is_encoded_once_and_nothing_is_lost(store):
    engine = ScriptedEngine()
    records = [record("a", "one"), record("b", "two"), record("c", "one")]
    results = list(caption_records(engine, store, records))
    assert {r.region_id for r in results} == {"a", "b", "c"}
    assert all(isinstance(r, Captioned) and "red" in r.caption for r in results)
    assert engine.encoded == 2
    assert sorted(engine.batches) == [1, 2]


def test_batches_respect_the_engine_limit(store):
    engine = ScriptedEngine(max_regions=2)
    results = list(caption_records(engine, store, [record(str(i), "one") for i in range(5)]))
    assert [r.region_id for r in results] == list("01234")
    assert engine.batches == [2, 2, 1]


def test_failures_are_named_one_by_one(store):
    records = [
        record("good", "one"),
        record("empty", "one", mask=np.zeros(SIZE, np.bool_)),
        record("size", "one", mask=np.ones((8, 8), np.bool_)),
        record("code", "one", counts="zzzz"),
        record("absent", "nowhere"),
        record("broken", "broken"),
    ]
    results = {r.region_id: r for r in caption_records(ScriptedEngine(), store, records)}
    assert isinstance(results.pop("good"), Captioned)
    assert set(results) == {"empty", "size", "code", "absent", "broken"}
    assert all(isinstance(r, FailedCaption) and r.reason for r in results.values())


@pytest.mark.parametrize("failure", ["raise", "non_finite"])
def test_a_failing_engine_gives_failures_and_no_text(store, failure):
    engine = ScriptedEngine(hook=lambda call, token: failure if token == 1 else None)
    results = list(caption_records(engine, store, [record("a", "one"), record("b", "one")]))
    assert [type(r) for r in results] == [FailedCaption, FailedCaption]


def test_image_only_hides_the_region(store):
    half = np.zeros(SIZE, np.bool_)
    half[:20] = True
    engine = ScriptedEngine()
    seen = list(caption_records(engine, store, [record("a", "one", mask=half)]))
    hidden = [
        next(iter(caption_records(engine, store, [record("a", "one", mask=m)], image_only=True)))
        for m in (half, ~half)
    ]
    assert hidden[0].caption == hidden[1].caption
    assert seen[0].caption != hidden[0].caption


@pytest.mark.parametrize(
    ("short", "long", "expected"),
    [(("a",), ("b",), "short"), ((), ("b",), "long"), ((), (), "short")],
)
def test_auto_style_follows_what_people_wrote(short, long, expected):
    one = record("a", "one", short=short, long=long)
    assert choose_style(one, "auto") == expected
    assert choose_style(one, "long") == "long"


def test_an_output_cut_short_is_repaired_and_continued(tmp_path):
    path = tmp_path / "out.jsonl"
    line = json.dumps({"region_id": "a", "caption": "x", "score": 0.5})
    path.write_text(f'{line}\n{{"region_id": "b", "capt')
    assert read_captioned_ids(path) == {"a"}
    assert path.read_text() == f"{line}\n"


def test_a_foreign_file_is_not_continued(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("hello\n")
    with pytest.raises(SourceError, match="not a file of captions"):
        read_captioned_ids(path)
