"""Converts a recording of format 1 or 2 to format 3.

    python tools/convert_recording.py OLD.mcap NEW.mcap

Format 1 has the names of wire protocol 1. Formats 1 and 2 note each call of the pipeline with what
it read on the way; format 3 has one input per step. What a call read after it had started a batch
belongs to the input of the next step. Formats 1 and 2 told the rows of a batch by their masks, so
two requests of one region have one id there; they get their own. Pictures, masks, decisions and
words are copied as they are. A file that is cut is converted up to its last whole chunk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcap.exceptions import McapError
from mcap.stream_reader import StreamReader
from mcap.writer import Writer

from ureca.datatypes import JsonObject
from ureca.node.recording.recorder import FORMAT, METADATA
from ureca.protocol.events import PROTOCOL_VERSION

_KINDS = {"hb": "heartbeat", "met": "recording.stopped"}
_KIND_PREFIXES = {"trk.": "track.", "cap.": "caption."}
_KEYS = {
    "boot": "session_id",
    "eseq": "event_seq",
    "cap_ns": "captured_ns",
    "cap_ns_last": "captured_ns",
    "cap_src": "capture_source",
    "t": "stage_us",
}
_GONE = frozenset({"cap_ns_first"})


def renamed(data: JsonObject) -> JsonObject:
    """The keys of an event, or of a frame's header, by their new names."""
    return {_KEYS.get(key, key): value for key, value in data.items() if key not in _GONE}


def event(data: JsonObject) -> JsonObject:
    """An event of protocol 1 as one of protocol 2."""
    kind: str = data["ev"]
    for old, new in _KIND_PREFIXES.items():
        if kind.startswith(old):
            kind = new + kind.removeprefix(old)
    found = {**renamed(data), "ev": _KINDS.get(kind, kind), "v": PROTOCOL_VERSION}
    if "counters" in found:
        counters: dict[str, int] = found["counters"]
        found["counters"] = {
            f"caption_{name.removeprefix('cap_')}" if name.startswith("cap_") else name: count
            for name, count in counters.items()
        }
    if kind == "met":
        lost = int(found.pop("values").get("record_lost", 0))
        found |= {"reason": "the recording ended", "lost": lost}
    return found


@dataclass
class Known:
    """What must be known of the whole file before its calls become steps."""

    ends: dict[int, str] = field(default_factory=dict)
    """By request id, how captions ended: calls of the pipeline noted no more than the time."""
    begun: set[int] = field(default_factory=set)
    """Requests whose caption began, as subscribers were told."""
    alike: dict[int, list[int]] = field(default_factory=dict)
    """By request id, the requests of the same region in its batch."""

    def event(self, data: JsonObject) -> None:
        """Learn from an event."""
        request_id, end = data.get("request_id"), data["ev"].split(".")[-1]
        if request_id is not None and end in ("final", "abort", "error"):
            self.ends[request_id] = end
        elif request_id is not None and end == "start":
            self.begun.add(request_id)

    def call(self, data: JsonObject) -> None:
        """Learn from a call of the pipeline."""
        for batch in data.get("jobs", []):
            regions: dict[str, list[int]] = {}
            for request in batch:
                regions.setdefault(request["rid"], []).append(request["request_id"])
            self.alike |= {one: group for group in regions.values() for one in group}

    def engine_run(self, data: JsonObject) -> JsonObject:
        """The run with a request of its own for every row."""
        rows: list[int] = []
        stopped: dict[str, int] = {}
        for name in dict.fromkeys(data.get("rows", [])):
            group = self.alike.get(name, [name])
            ran = sorted(group, key=self._rank)[: data["rows"].count(name)]
            rows += ran
            if (reads := data.get("stopped", {}).get(str(name))) is not None:
                aborted = [one for one in ran if self.ends.get(one) == "abort"]
                stopped |= {str(one): reads for one in aborted or [name]}
        return {**data, "rows": sorted(rows), "stopped": stopped}

    def _rank(self, request_id: int) -> bool:
        """False for those that surely ran; the others were aborted, maybe before they ran."""
        return request_id not in self.begun and self.ends.get(request_id) == "abort"


def look_through(old: Path) -> Known:
    """Read the events and calls of a file once."""
    known = Known()
    take = {**dict.fromkeys(_EVENTS, known.event), "/ureca/turns": known.call}
    with old.open("rb") as file, contextlib.suppress(McapError):
        topics: dict[int, str] = {}
        for record in StreamReader(file).records:
            if type(record).__name__ == "Channel":
                topics[record.id] = record.topic
            elif type(record).__name__ == "Message" and topics[record.channel_id] in take:
                take[topics[record.channel_id]](json.loads(record.data))
    return known


class _Steps:
    """Calls of the pipeline, one after the other, as steps."""

    def __init__(self, ends: dict[int, str], *, is_renamed: bool) -> None:
        self._ends, self._is_renamed = ends, is_renamed
        self._late: list[JsonObject] = []

    def step(self, data: JsonObject) -> JsonObject:
        """The step of one call."""
        names: Callable[[JsonObject], JsonObject] = dict if self._is_renamed else renamed
        first, *later = data.get("ended") or [[]]
        finished = [*self._late, *map(self._finished, first)]
        self._late = [self._finished(one) for ended in later for one in ended]
        rooms, starts = data.get("rooms", []), data["call"] in ("step", "tick")
        asks = [{**ask, "op": "describe"} for ask in data.get("asks", [])]
        for ask in asks:
            if ask.get("frame"):
                ask["frame"] = names(ask["frame"])
        return {
            "number": data["n"],
            "now_ns": data["now_ns"],
            "frame": names(data["frame"]) if data.get("frame") else None,
            "requests": [*asks, *data.get("orders", [])],
            "finished_captions": finished,
            "finished_keyframes": [_keyframe(cut) for cut in data.get("cuts", [])],
            "captioner_room": rooms[_SCHEDULE_ROOM] if starts and len(rooms) > 1 else 0,
            "closing": data.get("reason", ""),
            "batch": (data.get("jobs") or [[]])[0],
            "answers": data.get("answers", []),
        }

    def _finished(self, ended: JsonObject) -> JsonObject:
        end = "abort" if ended.get("reason") else self._ends.get(ended["request_id"], "final")
        return {**ended, "end": end}


def _keyframe(cut: JsonObject) -> JsonObject:
    """A segmenter's answer; its masks have another name now."""
    return {"region_masks" if key == "cutouts" else key: value for key, value in cut.items()}


_EVENTS = ("/ureca/events", "/ureca/replies")
_SCHEDULE_ROOM = 1
"""A call read the room of the captioner twice: after it took captions in, and to schedule."""
_TOPICS = {"/ureca/turns": "/ureca/steps", "/ureca/batches": "/ureca/engine_runs"}
_SCHEMAS = {"ureca.Turn": "ureca.Step", "ureca.Batch": "ureca.EngineRun"}


def convert(old: Path, new: Path) -> int:
    """Write `new` from `old`; how many messages it has. `ValueError` for another format."""
    count, known = 0, look_through(old)
    with old.open("rb") as source, new.open("wb") as target:
        writer = Writer(target, chunk_size=1 << 18)
        writer.start(profile="", library="ureca")
        copy = _Copy(writer, known)
        try:
            for record in StreamReader(source).records:
                count += copy.take(record)
        except McapError as error:
            print(f"{old} is cut: {error}; what is whole is converted", file=sys.stderr)
        writer.finish()
    return count


class _Copy:
    """Hands records on to a writer, which numbers schemas and channels anew."""

    def __init__(self, writer: Writer, known: Known) -> None:
        self._writer, self._known = writer, known
        self._change: dict[str, Callable[[JsonObject], JsonObject]] = {}
        self._schemas: dict[int, int] = {}
        self._channels: dict[int, tuple[int, str]] = {}

    def take(self, record: Any) -> bool:  # the library's records have no common type
        """Copy one record; whether it was a message."""
        kind = type(record).__name__
        if kind == "Metadata" and record.name == METADATA:
            self._head(dict(record.metadata))
        elif kind == "Schema" and record.id not in self._schemas:
            self._schemas[record.id] = self._writer.register_schema(
                name=_SCHEMAS.get(record.name, record.name),
                encoding=record.encoding,
                data=record.data,
            )
        elif kind == "Channel" and record.id not in self._channels:
            number = self._writer.register_channel(
                topic=_TOPICS.get(record.topic, record.topic),
                message_encoding=record.message_encoding,
                schema_id=self._schemas[record.schema_id],
            )
            self._channels[record.id] = number, record.topic
        elif kind == "Message":
            self._message(record)
            return True
        return False

    def _head(self, head: dict[str, str]) -> None:
        if head.get("format") not in ("1", "2"):
            raise ValueError(f"expected a recording of format 1 or 2, got {head.get('format')!r}")
        is_renamed = head["format"] == "2"
        steps = _Steps(self._known.ends, is_renamed=is_renamed)
        self._change = {"/ureca/turns": steps.step, "/ureca/batches": self._known.engine_run}
        if not is_renamed:
            self._change |= dict.fromkeys(_EVENTS, event)
        self._writer.add_metadata(METADATA, {**head, "format": FORMAT})

    def _message(self, record: Any) -> None:
        number, topic = self._channels[record.channel_id]
        data: bytes = record.data
        if topic in self._change:
            changed = self._change[topic](json.loads(data))
            data = json.dumps(changed, ensure_ascii=False, separators=(",", ":")).encode()
        self._writer.add_message(
            channel_id=number,
            log_time=record.log_time,
            data=data,
            publish_time=record.publish_time,
            sequence=record.sequence,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file."""
    parser = argparse.ArgumentParser(description="Recording of format 1 or 2 to format 3.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(argv)
    if options.new.exists():
        parser.error(f"{options.new} exists")
    try:
        count = convert(options.old, options.new)
    except (OSError, ValueError) as error:
        options.new.unlink(missing_ok=True)
        parser.error(f"{options.old}: {error}")
    print(f"{options.new}: {count} messages")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
