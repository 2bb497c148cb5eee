"""Segments of whole frames in a recording, read back as Foxglove reads them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.node.test_record import again, record
from ureca import PanopticView
from ureca.clock import MonotonicClock
from ureca.node.recording.reader import read
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.replay_diff import differences
from ureca.testing import EventCapture, ScriptedEngine, SyntheticSource

mcap = pytest.importorskip("mcap.reader", reason="needs the extra `record`")

WHOLE = {
    "segmenter": {"model": "scripted", "every_frames": 4},
    "panoptic": {"on": True},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EventCapture]:
    source = SyntheticSource(frames=80, things=3, seed=4, with_regions="never")
    path, _, capture = record(
        tmp_path_factory.mktemp("record"),
        list(source),
        sections=WHOLE,
        engine=ScriptedEngine(),
        is_lossless=True,
    )
    return path, capture


def messages(path: Path, topic: str) -> list[tuple[str, int, dict[str, Any]]]:
    """Schema, sequence and content of each message of a topic."""
    with path.open("rb") as file:
        found = mcap.make_reader(file).iter_messages(topics=[topic])
        return [(schema.name, m.sequence, json.loads(m.data)) for schema, _, m in found]


def pixels(image: dict[str, Any]) -> np.ndarray:
    assert image["encoding"] == "mono16"
    assert image["step"] == 2 * image["width"]
    data = np.frombuffer(base64.b64decode(image["data"]), "<u2")
    return data.reshape(image["height"], image["width"])


def test_every_map_is_there_with_a_number_for_each_region(recorded) -> None:
    path, capture = recorded
    views = [PanopticView.from_event(event) for event in capture.of("panoptic")]
    images, names = messages(path, "/cam0/segments"), messages(path, "/cam0/segment_names")
    assert len(images) == len(names) == len(views) >= 8
    assert {schema for schema, _, _ in images} == {"foxglove.RawImage"}
    assert {schema for schema, _, _ in names} == {"foxglove.ImageAnnotations"}
    numbers: dict[str, set[int]] = {}
    for view, (_, seq, image), (_, _, drawn) in zip(views, images, names, strict=True):
        assert seq == view.seq
        values = pixels(image)
        assert values.shape == view.id_map.shape
        assert ((values == 0) == (view.id_map == 0)).all()
        said = dict(text["text"].split(": ", 1) for text in drawn["texts"])
        assert len(said) == len(view.segments) >= 3
        places = {text["text"].split(":")[0]: text["position"] for text in drawn["texts"]}
        for one in view.segments:
            (value,) = np.unique(values[view.mask(one.n)])
            assert said[str(value)] == (one.caption or one.rid)
            spot = places[str(value)]
            assert view.id_map[int(spot["y"]), int(spot["x"])] == one.n, "a pixel of the segment"
            numbers.setdefault(one.rid, set()).add(int(value))
    assert all(len(of_region) == 1 for of_region in numbers.values()), "numbers stay"
    assert len(set.union(*numbers.values())) == len(numbers), "and are of one region each"
    assert any(one.caption for one in views[-1].segments)


def test_the_times_are_those_of_the_pictures(recorded) -> None:
    path, _ = recorded
    stamps = {seq: image["timestamp"] for _, seq, image in messages(path, "/cam0/segments")}
    steps = {
        message["frame"]["seq"]: number
        for _, number, message in messages(path, "/ureca/steps")
        if message.get("frame")
    }
    shown = {number: image["timestamp"] for _, number, image in messages(path, "/cam0/image")}
    assert stamps
    assert all(shown[steps[seq]] == stamp for seq, stamp in stamps.items())


def test_a_recording_with_segments_replays(recorded) -> None:
    path, _ = recorded
    recording = read(path)
    assert recording.loss is None
    assert differences(recording, again(recording)) == []


def test_a_map_that_cannot_be_read_costs_only_itself(tmp_path: Path, recorded) -> None:
    _, capture = recorded
    good = capture.of("panoptic")[-1]
    recorder = Recorder(tmp_path / "run.mcap", clock=MonotonicClock(), head={})
    recorder.start(lambda _: None)
    for event in (msgspec.structs.replace(good, png=b"no map"), good):
        recorder(event)
    recorder.close()
    assert recorder.counters() == {"record_lost_message": 1}
    assert len(messages(tmp_path / "run.mcap", "/cam0/segments")) == 1
    assert len(messages(tmp_path / "run.mcap", "/ureca/events")) == 2
