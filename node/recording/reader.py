"""Reads a complete or cut recording up to the last complete chunk, and reports what is missing."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ureca.datatypes import Image
from ureca.errors import SourceError, WireError
from ureca.extras import require
from ureca.node.captioning.batch import EngineRun
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.recording import schemas
from ureca.node.recording.recorder import EXTRA, FORMAT, METADATA
from ureca.node.recording.step_log import RecordedStep
from ureca.protocol.events import AnyEvent

_MAX_RECORD_BYTES = 1 << 29
_MAX_RECORDS = 1 << 17
"""In a chunk; ours have some thousands."""
_INNER = frozenset({3, 4, 5})
"""Schemas, channels and messages: what a chunk may hold."""
_MAX_PX = 1 << 25


@dataclass(frozen=True, slots=True)
class Loss:
    """Where a recording stops being whole, and why."""

    at_byte: int
    size_bytes: int
    why: str

    def text(self, path: Path) -> str:
        """For people."""
        return (
            f"{path} is cut: {self.why} at byte {self.at_byte} of {self.size_bytes}; it is used up "
            f"to its last whole chunk, and what was recorded after that is lost"
        )


@dataclass
class Recording:
    """Everything but the pictures, which `pictures` reads one by one."""

    path: Path
    head: dict[str, str] = field(default_factory=dict)
    steps: list[RecordedStep] = field(default_factory=list)
    engine_runs: list[EngineRun] = field(default_factory=list)
    events: list[AnyEvent] = field(default_factory=list)
    replies: list[AnyEvent] = field(default_factory=list)
    tracks: dict[int, bytes] = field(default_factory=dict)
    """By step, the sha256 of its regions, masks included."""
    loss: Loss | None = None


def read(path: Path) -> Recording:
    """Read a recording. Raises `SourceError` if it is none, or cut inside its header."""
    recording = Recording(path)
    for topic, data, sequence in _raw(path, recording):
        if topic == schemas.STEPS:
            recording.steps.append(_typed(path, data, RecordedStep))
        elif topic == schemas.ENGINE_RUNS:
            recording.engine_runs.append(_typed(path, data, EngineRun))
        elif topic in (schemas.EVENTS, schemas.REPLIES):
            events = recording.events if topic == schemas.EVENTS else recording.replies
            events.append(_typed(path, data, AnyEvent))
        elif topic.endswith("/tracks"):
            recording.tracks[sequence] = digest(data)
    if not recording.head:
        raise SourceError(f"{path} is no recording of a node, or cut before its head was whole")
    return recording


def digest(data: bytes) -> bytes:
    """What two equal sets of regions have in common."""
    return hashlib.sha256(data).digest()


def pictures(path: Path) -> Iterator[tuple[int, Image]]:
    """The pictures in order, each with its step. Raises `SourceError` for one that is broken."""
    for topic, data, sequence in _raw(path, Recording(path)):
        if topic.endswith("/image"):
            png = _typed(path, data, _Picture).data
            yield sequence, decode_picture(png, max_px=_MAX_PX)


class _Picture(msgspec.Struct):
    data: bytes


def _raw(path: Path, recording: Recording) -> Iterator[tuple[str, bytes, int]]:
    """Messages of whole chunks; sets `head` and `loss` of the recording on the way."""
    mcap = require("mcap.stream_reader", extra=EXTRA)
    errors = require("mcap.exceptions", extra=EXTRA), require("zstandard", extra=EXTRA)
    broken = (errors[0].McapError, errors[1].ZstdError, *_BROKEN)
    whole = 0
    topics: dict[int, str] = {}
    try:
        with path.open("rb") as file:
            reader = mcap.StreamReader(file, emit_chunks=True, record_size_limit=_MAX_RECORD_BYTES)
            try:
                for record in reader.records:
                    yield from _of_record(mcap, record, topics, recording)
                    whole = file.tell()
            except broken as error:
                recording.loss = _loss(path, whole, error)
    except OSError as error:
        raise SourceError(f"cannot read the recording {path}: {error.strerror}") from error


# What the library raises on bytes that end too early or make no sense.
_BROKEN = (struct.error, ValueError, EOFError, KeyError, MemoryError, OverflowError, zlib.error)


def _of_record(
    mcap: Any, record: Any, topics: dict[int, str], recording: Recording
) -> Iterator[tuple[str, bytes, int]]:
    """What one top-level record holds. A chunk is unpacked and checked before any of it is used."""
    kind = type(record).__name__
    if kind == "Metadata" and record.name == METADATA:
        recording.head = dict(record.metadata)
        _check_format(recording)
    if kind != "Chunk":
        return
    _unpack(record)
    for inner in mcap.breakup_chunk(record, validate_crc=True):
        name = type(inner).__name__
        if name == "Channel":
            topics[inner.id] = inner.topic
        elif name == "Message":
            yield topics[inner.channel_id], inner.data, inner.sequence


def _unpack(chunk: Any) -> None:
    """Replace a chunk's data by what it unpacks to: as many bytes as it says, in records that a
    node writes. Raises `ValueError` for any other, and `zstandard.ZstdError`.
    """
    size = chunk.uncompressed_size
    if size > _MAX_RECORD_BYTES or chunk.compression not in ("zstd", ""):
        raise ValueError(f"{chunk.compression} chunk of {size} bytes")
    if chunk.compression == "zstd":
        zstd = require("zstandard", extra=EXTRA)
        # The library follows the size in the frame itself, whatever it is asked for.
        with zstd.ZstdDecompressor(max_window_size=_MAX_RECORD_BYTES).stream_reader(
            chunk.data, read_across_frames=True
        ) as stream:
            chunk.data = stream.read(size + 1)
        chunk.compression = ""
    if len(chunk.data) != size:
        raise ValueError(f"a chunk says {size} bytes and has {len(chunk.data)} or more")
    place = 0
    for _ in range(_MAX_RECORDS):
        if place == size:
            return
        if chunk.data[place] not in _INNER or place + 9 > size:
            raise ValueError(f"a chunk holds a record of kind {chunk.data[place]}")
        place += 9 + int.from_bytes(chunk.data[place + 1 : place + 9], "little")
        if place > size:
            raise ValueError("a record is longer than its chunk")
    raise ValueError(f"a chunk of more than {_MAX_RECORDS} records")


def _check_format(recording: Recording) -> None:
    """Refuse a recording whose names are those of another wire protocol: `SourceError`."""
    found = recording.head.get("format")
    if found != FORMAT:
        raise SourceError(
            f"{recording.path} is a recording of format {found!r}, this version reads {FORMAT!r}. "
            "Convert an older one once, in the source tree:\n"
            f"    python tools/convert_recording.py {recording.path} NEW.mcap"
        )


def _loss(path: Path, whole: int, error: Exception) -> Loss:
    text = str(error) or type(error).__name__
    return Loss(whole, path.stat().st_size, f"{text:.120}")


def _typed(path: Path, data: bytes, kind: Any) -> Any:  # a struct or the union of events
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, WireError, RecursionError) as error:
        raise SourceError(f"{path}: a message is not what its channel says: {error}") from error
