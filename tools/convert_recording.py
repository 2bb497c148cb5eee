"""Converts a recording of format 1 to format 2: the names of wire protocol 1 become those of 2.

    python tools/convert_recording.py OLD.mcap NEW.mcap

Pictures, masks, decisions and words are copied as they are, so the replay of the new file equals
the replay of the old one. A file that is cut is converted up to its last whole chunk.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mcap.exceptions import McapError
from mcap.stream_reader import StreamReader
from mcap.writer import Writer

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

Plain = dict[str, Any]


def renamed(data: Plain) -> Plain:
    """The keys of an event, or of a frame's header, by their new names."""
    return {_KEYS.get(key, key): value for key, value in data.items() if key not in _GONE}


def event(data: Plain) -> Plain:
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


def turn(data: Plain) -> Plain:
    """A call of the pipeline; only frames in it have names of the protocol."""
    found = dict(data)
    if found.get("frame") is not None:
        found["frame"] = renamed(found["frame"])
    if "asks" in found:
        found["asks"] = [
            {**ask, "frame": renamed(ask["frame"])} if ask.get("frame") else ask
            for ask in found["asks"]
        ]
    return found


_CHANNELS: dict[str, Callable[[Plain], Plain]] = {
    "/ureca/events": event,
    "/ureca/replies": event,
    "/ureca/turns": turn,
}


def convert(old: Path, new: Path) -> int:
    """Write `new` from `old`; how many messages it has. `ValueError` for another format."""
    count = 0
    with old.open("rb") as source, new.open("wb") as target:
        writer = Writer(target, chunk_size=1 << 18)
        writer.start(profile="", library="ureca")
        copy = _Copy(writer)
        try:
            for record in StreamReader(source).records:
                count += copy.take(record)
        except McapError as error:
            print(f"{old} is cut: {error}; what is whole is converted", file=sys.stderr)
        writer.finish()
    return count


class _Copy:
    """Hands records on to a writer, which numbers schemas and channels anew."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._schemas: dict[int, int] = {}
        self._channels: dict[int, tuple[int, str]] = {}

    def take(self, record: Any) -> bool:  # the library's records have no common type
        """Copy one record; whether it was a message."""
        kind = type(record).__name__
        if kind == "Metadata" and record.name == METADATA:
            self._head(dict(record.metadata))
        elif kind == "Schema" and record.id not in self._schemas:
            self._schemas[record.id] = self._writer.register_schema(
                name=record.name, encoding=record.encoding, data=record.data
            )
        elif kind == "Channel" and record.id not in self._channels:
            number = self._writer.register_channel(
                topic=record.topic,
                message_encoding=record.message_encoding,
                schema_id=self._schemas[record.schema_id],
            )
            self._channels[record.id] = number, record.topic
        elif kind == "Message":
            self._message(record)
            return True
        return False

    def _head(self, head: dict[str, str]) -> None:
        if head.get("format") != "1":
            raise ValueError(f"expected a recording of format 1, got {head.get('format')!r}")
        self._writer.add_metadata(METADATA, {**head, "format": FORMAT})

    def _message(self, record: Any) -> None:
        number, topic = self._channels[record.channel_id]
        data: bytes = record.data
        if topic in _CHANNELS:
            changed = _CHANNELS[topic](json.loads(data))
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
    parser = argparse.ArgumentParser(description="Recording of format 1 to format 2.")
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
