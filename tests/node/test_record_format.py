"""A recording of format 1 or 2 is refused with the command that converts it, and replays then."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_record import again, record
from ureca.datatypes import RegionSeed
from ureca.errors import SourceError
from ureca.node.recording.reader import read
from ureca.node.recording.replay_diff import differences
from ureca.protocol.events import CaptionFinal, Heartbeat, RecordingStopped
from ureca.testing import SyntheticSource

pytest.importorskip("mcap", reason="needs the extra `record`")

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_recording.py"
KEYS = {
    "session_id": "boot",
    "event_seq": "eseq",
    "capture_source": "cap_src",
    "stage_us": "t",
}
MET = {"ev": "met", "v": [1, 0], "boot": "", "eseq": 9, "pub_ns": 1, "stream": ""}


def aged_event(data: dict[str, Any]) -> dict[str, Any]:
    """An event as protocol 1 spelled it."""
    found = {KEYS.get(key, key): value for key, value in data.items()} | {"v": [1, 0]}
    kind = data["ev"]
    captured = found.pop("captured_ns", None)
    if kind == "caption.final":
        found |= {"cap_ns_first": captured, "cap_ns_last": captured}
    elif captured is not None:
        found["cap_ns_last" if kind == "caption.same" else "cap_ns"] = captured
    if kind == "heartbeat":
        found["counters"] = {
            name.replace("caption_", "cap_"): n for name, n in found["counters"].items()
        }
    found["ev"] = kind.replace("track.", "trk.").replace("caption.", "cap.")
    return found | ({"ev": "hb"} if kind == "heartbeat" else {})


def aged_step(data: dict[str, Any], *, format_1: bool) -> dict[str, Any]:
    """A step as a call of the pipeline, with what it read on the way."""
    frame = data.get("frame")
    if frame and format_1:
        frame = {KEYS.get(key, key): value for key, value in frame.items()}
    requests = data.get("requests", [])
    asks = [{k: v for k, v in one.items() if k != "op"} for one in requests if is_ask(one)]
    ended = [
        {key: value for key, value in one.items() if key != "end"}
        for one in data.get("finished_captions", [])
    ]
    room = data.get("captioner_room", 0)
    return {
        "n": data["number"],
        "call": "close" if data.get("closing") else "step" if frame else "tick",
        "now_ns": data["now_ns"],
        "reason": data.get("closing", ""),
        "frame": frame,
        "asks": asks,
        "orders": [one for one in requests if not is_ask(one)],
        "answers": data.get("answers", []),
        "ended": [ended, []],
        "rooms": [room, room, 0],
        "jobs": [data["batch"]] if data.get("batch") else [],
        "cuts": [
            {"cutouts" if key == "region_masks" else key: value for key, value in one.items()}
            for one in data.get("finished_keyframes", [])
        ],
    }


def is_ask(request: dict[str, Any]) -> bool:
    return bool(request["op"] == "describe")


AGED: dict[str, dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "1": {
        "/ureca/events": aged_event,
        "/ureca/replies": aged_event,
        "/ureca/steps": partial(aged_step, format_1=True),
    },
    "2": {"/ureca/steps": partial(aged_step, format_1=False)},
}
TOPICS = {"/ureca/steps": "/ureca/turns", "/ureca/engine_runs": "/ureca/batches"}


def age(new: Path, old: Path, version: str) -> None:
    """Write a recording of format 3 as one of an older format."""
    from mcap.reader import make_reader
    from mcap.writer import Writer

    with new.open("rb") as source, old.open("wb") as target:
        reader, writer = make_reader(source), Writer(target, chunk_size=1 << 18)
        writer.start(profile="", library="ureca")
        (head,) = reader.iter_metadata()
        writer.add_metadata(head.name, {**head.metadata, "format": version})
        channels: dict[str, int] = {}
        for schema, channel, message in reader.iter_messages(log_time_order=False):
            if channel.topic not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.topic] = writer.register_channel(
                    TOPICS.get(channel.topic, channel.topic), "json", number
                )
            data = message.data
            if channel.topic in AGED[version]:
                data = json.dumps(AGED[version][channel.topic](json.loads(data))).encode()
            stamps = message.log_time, data, message.publish_time, message.sequence
            writer.add_message(channels[channel.topic], *stamps)
        if version == "1":
            met = {**MET, "values": {"record_stopped": 1.0, "record_lost": 3.0}}
            writer.add_message(channels["/ureca/events"], 1, json.dumps(met).encode(), 1)
        writer.finish()


def convert(old: Path, new: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool."""
    command = [sys.executable, str(TOOL), str(old), str(new)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_older_recording_is_refused_and_converted(tmp_path: Path, version: str) -> None:
    scene = SyntheticSource(frames=12, with_regions="never")
    path, _, _ = record(
        tmp_path,
        list(scene),
        is_lossless=True,
        prompts={0: tuple(RegionSeed(box_xyxy_px=box) for box in scene.boxes_xyxy_px(0).values())},
        sections={"segmenter": {"model": "scripted", "every_frames": 1}},
    )
    old, new = tmp_path / "old.mcap", tmp_path / "new.mcap"
    age(path, old, version)
    with pytest.raises(
        SourceError, match=rf"format '{version}'.*\n.*convert_recording\.py .*old\.mcap"
    ):
        read(old)

    done = convert(old, new)
    assert done.returncode == 0, done.stderr
    before, after = read(path), read(new)
    *events, stopped = after.events if version == "1" else (*after.events, None)
    if version == "1":
        assert isinstance(stopped, RecordingStopped)
        assert stopped.lost == 3
    assert events == before.events
    assert {CaptionFinal, Heartbeat} <= {type(event) for event in events}
    assert (after.steps, after.engine_runs) == (before.steps, before.engine_runs)
    assert any(one.region_masks for step in after.steps for one in step.finished_keyframes)
    assert (after.tracks, after.replies) == (before.tracks, before.replies)
    assert differences(after, again(after)) == []

    assert "exists" in convert(old, new).stderr
    refused = convert(path, tmp_path / "third.mcap")
    assert refused.returncode == 2
    assert "format 1 or 2, got '3'" in refused.stderr
    assert not (tmp_path / "third.mcap").exists()


def test_requests_of_one_region_get_rows_of_their_own() -> None:
    """Formats 1 and 2 called a row by the last request of its mask."""
    spec = importlib.util.spec_from_file_location("convert_recording", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    sys.modules["convert_recording"] = tool  # dataclasses look their module up
    spec.loader.exec_module(tool)
    known = tool.Known()
    rids = {1: "red", 2: "red", 3: "green", 4: "red"}
    known.call({"jobs": [[{"request_id": number, "rid": rid} for number, rid in rids.items()]]})
    for number, end in ((1, "abort"), (2, "final"), (3, "final"), (4, "abort")):
        known.event({"ev": f"cap.{end}", "request_id": number})
    known.event({"ev": "cap.start", "request_id": 4})
    run = known.engine_run({"rows": [4, 3, 4], "stopped": {"4": 2}, "outputs": 7})
    assert run == {"rows": [2, 3, 4], "stopped": {"4": 2}, "outputs": 7}
