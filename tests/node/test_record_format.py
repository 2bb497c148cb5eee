"""A recording of format 1 is refused with the command that converts it, and replays after that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_record import again, record
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


def aged_turn(data: dict[str, Any]) -> dict[str, Any]:
    """A turn with its frame's header as format 1 had it."""
    if data.get("frame"):
        frame = {KEYS.get(key, key): value for key, value in data["frame"].items()}
        return {**data, "frame": frame}
    return data


AGED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "/ureca/events": aged_event,
    "/ureca/replies": aged_event,
    "/ureca/turns": aged_turn,
}


def age(new: Path, old: Path) -> None:
    """Write a recording of format 2 as one of format 1."""
    from mcap.reader import make_reader
    from mcap.writer import Writer

    with new.open("rb") as source, old.open("wb") as target:
        reader, writer = make_reader(source), Writer(target, chunk_size=1 << 18)
        writer.start(profile="", library="ureca")
        (head,) = reader.iter_metadata()
        writer.add_metadata(head.name, {**head.metadata, "format": "1"})
        channels: dict[str, int] = {}
        for schema, channel, message in reader.iter_messages(log_time_order=False):
            if channel.topic not in channels:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.topic] = writer.register_channel(channel.topic, "json", number)
            data = message.data
            if channel.topic in AGED:
                data = json.dumps(AGED[channel.topic](json.loads(data))).encode()
            stamps = message.log_time, data, message.publish_time, message.sequence
            writer.add_message(channels[channel.topic], *stamps)
        met = json.dumps({**MET, "values": {"record_stopped": 1.0, "record_lost": 3.0}}).encode()
        writer.add_message(channels["/ureca/events"], 1, met, 1)
        writer.finish()


def convert(old: Path, new: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool."""
    command = [sys.executable, str(TOOL), str(old), str(new)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_recording_of_format_1_is_refused_and_converted(tmp_path: Path) -> None:
    path, _, _ = record(tmp_path, list(SyntheticSource(frames=12)), is_lossless=True)
    old, new = tmp_path / "old.mcap", tmp_path / "new.mcap"
    age(path, old)
    with pytest.raises(SourceError, match=r"format '1'.*\n.*convert_recording\.py .*old\.mcap"):
        read(old)

    done = convert(old, new)
    assert done.returncode == 0, done.stderr
    before, after = read(path), read(new)
    *events, stopped = after.events
    assert isinstance(stopped, RecordingStopped)
    assert stopped.lost == 3
    assert events == before.events
    assert {CaptionFinal, Heartbeat} <= {type(event) for event in events}
    assert (after.turns, after.batches) == (before.turns, before.batches)
    assert (after.tracks, after.replies) == (before.tracks, before.replies)
    assert differences(after, again(after)) == []

    assert "exists" in convert(old, new).stderr
    refused = convert(path, tmp_path / "third.mcap")
    assert refused.returncode == 2
    assert "format 1, got '2'" in refused.stderr
    assert not (tmp_path / "third.mcap").exists()
