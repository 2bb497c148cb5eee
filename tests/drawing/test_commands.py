"""`ureca describe --render` and `ureca caption --render`: what they write is looked at."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ureca.errors import ConfigError
from ureca.models.data.regions import ImageStore, RegionRecord
from ureca.models.evaluation.caption import Captioned, FailedCaption, caption_records
from ureca.models.evaluation.reports.captioned_images import render_captions
from ureca.node.cli.describe import main
from ureca.protocol import rle
from ureca.testing import ScriptedEngine, SyntheticSource

pytest.importorskip("PIL", reason="rendering was not proven: pip install 'ureca[render]'")

SOURCE = SyntheticSource(width_px=480, height_px=240)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), SOURCE.image(0)[..., ::-1])
    cv2.imwrite(str(tmp_path / "mask.png"), SOURCE.masks(0)["red"].astype(np.uint8) * 255)
    return path


def changed(path, image):
    drawn = cv2.imread(str(path))[..., ::-1].astype(int)
    assert drawn.shape == image.shape
    return np.abs(drawn - image).max(axis=2) > 8


def test_describe_draws_its_region_and_its_words(picture, tmp_path, capsys):
    out = tmp_path / "out.png"
    mask, image = SOURCE.masks(0)["red"], SOURCE.image(0)
    options = [str(picture), "--mask", str(tmp_path / "mask.png"), "--render", str(out)]
    assert main(options, engine_of=lambda _: ScriptedEngine()) == 0
    assert "a red thing" in capsys.readouterr().out
    there = changed(out, image)
    assert there[mask].mean() > 0.9, "the mask is tinted"
    assert 300 < there[~mask].sum() < there.size / 8, "and words stand beside it"


def test_describe_says_in_time_that_it_cannot_write(picture, tmp_path):
    engine = ScriptedEngine()
    with pytest.raises(ConfigError, match="writes PNG"):
        main([str(picture), "--point", "9,9", "--render", "x.gif"], engine_of=lambda _: engine)
    assert engine.calls == 0


def record(region_id, image_key, name):
    code = rle.encode(SOURCE.masks(0)[name])
    return RegionRecord(
        region_id=region_id,
        image_key=image_key,
        shard="",
        source="test",
        height=code.size[0],
        width=code.size[1],
        counts=code.counts,
        box_xywh_px=(0, 0, 1, 1),
    )


def test_caption_draws_each_picture_once_with_all_of_its_regions(picture, tmp_path):
    cv2.imwrite(str(tmp_path / "other.png"), SOURCE.image(0)[..., ::-1])
    records = [record("a", "picture", "red"), record("b", "other", "green")]
    records += [record("c", "picture", "blue"), record("d", "missing", "red")]
    store = ImageStore([tmp_path])
    results = caption_records(ScriptedEngine(), store, records)
    handed = list(render_captions(results, records, store, tmp_path / "pictures"))
    assert {r.region_id for r in handed if isinstance(r, Captioned)} == {"a", "b", "c"}
    assert [r.region_id for r in handed if isinstance(r, FailedCaption)] == ["d"]
    found = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert found == ["other.png", "picture.png"]
    there = changed(tmp_path / "pictures" / "picture.png", SOURCE.image(0))
    masks = SOURCE.masks(0)
    assert there[masks["red"]].mean() > 0.5
    assert there[masks["blue"]].mean() > 0.5
    other = changed(tmp_path / "pictures" / "other.png", SOURCE.image(0))
    assert other[masks["green"]].mean() > 0.5
    assert other[masks["red"]].mean() < 0.5
