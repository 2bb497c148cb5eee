"""The pan over a table: a clip, and the truth of every pixel with one id an item."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ureca.models.data.synthetic.cli import main
from ureca.models.evaluation.panoptic.videos import judge_videos, read_video_frames


def test_a_pan_comes_with_its_truth(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    out = tmp_path / "pan"
    words = ["--frames", "4", "--size", "160x120", "--seed", "301"]
    assert main(["pan", "-o", str(out), *words]) == 0
    clip = cv2.VideoCapture(str(out / "pan.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    clip.release()
    file = json.loads((out / "panoptic.json").read_text())
    assert [image["frame_id"] for image in file["images"]] == [0, 1, 2, 3]
    classes = {one["id"]: one for one in file["categories"]}
    rows = file["annotations"][0]["segments_info"]
    named = {row["description"]: classes[row["category_id"]] for row in rows}
    assert named["a wooden table"]["isthing"] == 0
    assert named["a brown teapot"] == {**named["a brown teapot"], "name": "teapot", "isthing": 1}
    frames, count = read_video_frames(out / "panoptic.json", out / "panoptic.json")
    assert len(frames) == count == 4
    assert all((one.case.ids > 0).mean() > 0.99 for one in frames)
    assert len({one.case.ids.tobytes() for one in frames}) > 1  # it moves
    found = judge_videos(frames)
    assert found["stq"] == found["vpq"] == 1.0
    teapots = [one.number for f in frames for one in f.case.segments if one.category == "teapot"]
    assert len(set(teapots)) == 1
    assert np.median([len(one.case.segments) for one in frames]) >= 8
    assert found["ids_kept"]["things"]["share"] == pytest.approx(1.0)
