"""`ureca panoptic`: COCO's format out, progress, and going on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ureca.errors import ConfigError
from ureca.models.evaluation.panoptic.coco_files import make_prediction, read_coco_panoptic
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.cli.panoptic import main
from ureca.testing import ScriptedEngine, SyntheticSource

SOURCE = SyntheticSource(frames=4, things=3, seed=4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "deeper/a.png")):
        cv2.imwrite(str(folder / name), SOURCE.image(number)[..., ::-1])
    return folder


class Counting:
    """Opens scripted parts, and counts the pictures that were segmented."""

    def __init__(self) -> None:
        self.segmenter = ScriptedSegmenter()

    def run(self, *argv: str) -> int:
        return main(
            argv,
            engine_of=lambda _: ScriptedEngine(),
            segmenter_of=lambda _: self.segmenter,
        )


def test_every_picture_gets_a_map_and_a_caption_for_each_segment(photos, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert Counting().run(str(photos), "-o", str(out), "--render") == 0
    assert "3 pictures, 0 unreadable" in capsys.readouterr().out
    found = {one.file_name: one for one in read_coco_panoptic(out / "panoptic.json")}
    assert set(found) == {"a.png", "b.png", "deeper/a.png"}
    for number, name in enumerate(("a.png", "b.png", "deeper/a.png")):
        prediction = make_prediction(found[name])
        assert prediction.coverage == 1
        assert [one.stuff for one in prediction.segments] == [False] * 3 + [True]
        assert all(one.caption for one in prediction.segments)
        areas = np.bincount(prediction.ids.ravel())[1:]
        rows = json.loads((out / "panoptic.json").read_text())["annotations"][number]
        assert sum(row["area"] for row in rows["segments_info"]) == areas.sum()
    assert len(list((out / "pictures").iterdir())) == 3


def test_a_run_goes_on_where_it_was_stopped(photos, tmp_path) -> None:
    out = tmp_path / "out"
    Counting().run(str(photos), "-o", str(out))
    whole = (out / "panoptic.json").read_bytes()
    lines = (out / "progress.jsonl").read_text().splitlines(keepends=True)
    (out / "progress.jsonl").write_text("".join(lines[:2]) + lines[2][:40])  # killed
    again = Counting()
    assert again.run(str(photos), "-o", str(out)) == 0
    assert again.segmenter.encoded == 2
    assert (out / "panoptic.json").read_bytes() == whole
    with pytest.raises(ConfigError, match="give another folder"):
        again.run(str(photos), "-o", str(out), "--style", "long")


def test_unreadable_pictures_are_told_and_cost_no_others(photos, tmp_path, capsys) -> None:
    (photos / "c.png").write_bytes(b"not a picture")
    assert Counting().run(str(photos), "-o", str(tmp_path / "out")) == 1
    assert "3 pictures, 1 unreadable" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="expected a folder"):
        Counting().run(str(tmp_path / "nothing"), "-o", str(tmp_path / "other"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no pictures"):
        Counting().run(str(tmp_path / "empty"), "-o", str(tmp_path / "other"))


def test_parts_are_written_where_they_are_asked_for(photos, tmp_path) -> None:
    out = tmp_path / "out"
    assert Counting().run(str(photos), "-o", str(out), "--parts") == 0
    file = json.loads((out / "parts.json").read_text())
    assert len(file["annotations"]) == len(list(read_coco_panoptic(out / "parts.json"))) == 3
    with pytest.raises(ConfigError, match="give another folder"):
        Counting().run(str(photos), "-o", str(out))
