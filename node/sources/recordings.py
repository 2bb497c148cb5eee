"""Recordings as sources: MCAP of ROS 2, Foxglove and our own, rosbag2 folders and SQLite bags.

Each topic of images is a clip of its own, with the stamps of the bag.
"""

from __future__ import annotations

import base64
import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

import cv2
import msgspec
import numpy as np

from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.extras import require
from ureca.node.decoding.image_decoder import decode_picture
from ureca.node.decoding.picture_files import natural_key

EXTRA = "record"
MCAP_MAGIC, SQLITE_MAGIC, ROS1_MAGIC = b"\x89MCAP0\r\n", b"SQLite format 3\0", b"#ROSBAG V2.0"
_SUFFIXES = (".mcap", ".db3")
_ROS_IMAGE, _ROS_COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_FOXGLOVE = "foxglove.CompressedImage"
_KINDS = (_ROS_IMAGE, _ROS_COMPRESSED, _FOXGLOVE)
_LEFT_OUT = re.compile(r"(image|img|raw|rect|color|compressed|png|jpeg)")
_DEFAULT_FPS = 10.0
_CODES: dict[str, int | None] = {
    "rgb8": None,
    "bgr8": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "8UC4": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "bayer_rggb8": cv2.COLOR_BayerRGGB2RGB,
    "bayer_bggr8": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGBRG2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGRBG2RGB,
}
_CHANNELS = {3: ("rgb8", "bgr8", "8UC3"), 4: ("rgba8", "bgra8", "8UC4"), 2: ("yuv422", "uyvy")}
_PLANES = {name: count for count, names in _CHANNELS.items() for name in names} | {
    "yuv422_yuy2": 2,
    "yuyv": 2,
}


class _Topic(NamedTuple):
    name: str
    kind: str
    encoding: str
    messages: int


class _Stored(NamedTuple):
    """One message, with the time of its recording in ns."""

    at_ns: int
    data: bytes


class _Bag(Protocol):
    """A file of messages."""

    topics: list[_Topic]

    def messages(self, topic: str) -> Iterator[_Stored]:
        """Messages of a topic in the order of their times; `SourceError` where it is damaged."""


class _McapFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._mcap = require("mcap.reader", extra=EXTRA)
        summary = self._summary()
        self._is_whole = summary is not None and bool(summary.channels)
        counts: dict[int, int] = {}
        if summary is not None and self._is_whole:
            found = [(one, summary.schemas.get(one.schema_id)) for one in summary.channels.values()]
            counts = summary.statistics.channel_message_counts if summary.statistics else {}
        else:
            seen = {channel.topic: (channel, schema) for schema, channel, _ in self._read(None)}
            found = list(seen.values())
        self.topics = [
            _Topic(one.topic, _kind_of(schema), one.message_encoding, counts.get(one.id, -1))
            for one, schema in found
        ]

    def messages(self, topic: str) -> Iterator[_Stored]:
        for _, _, message in self._read(topic):
            yield _Stored(message.log_time, message.data)

    def _summary(self) -> Any:  # a record of an optional package; None for a cut file
        errors = require("mcap.exceptions", extra=EXTRA)
        broken = (errors.McapError, OSError, EOFError, ValueError)
        with contextlib.suppress(*broken), self._path.open("rb") as file:
            return self._mcap.SeekingReader(file).get_summary()
        return None

    def _read(self, topic: str | None) -> Iterator[Any]:
        errors = require("mcap.exceptions", extra=EXTRA)
        try:
            with self._path.open("rb") as file:
                make = self._mcap.SeekingReader if self._is_whole else self._mcap.NonSeekingReader
                yield from make(file).iter_messages(
                    None if topic is None else [topic], log_time_order=self._is_whole
                )
        except (errors.McapError, OSError, EOFError, ValueError) as error:
            if topic is not None:
                raise SourceError(f"{self._path} is damaged or cut off: {error}") from error


class _SqliteFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        query = (
            "SELECT name, type, serialization_format, (SELECT COUNT(*) FROM messages "
            "WHERE topic_id = topics.id) FROM topics"
        )
        self.topics = [_Topic(*row) for row in self._rows(query)]

    def messages(self, topic: str) -> Iterator[_Stored]:
        query = (
            "SELECT timestamp, data FROM messages JOIN topics ON topics.id = topic_id "
            "WHERE name = ? ORDER BY timestamp"
        )
        for at_ns, data in self._rows(query, topic):
            yield _Stored(at_ns, data)

    def _rows(self, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
        try:
            with contextlib.closing(
                sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
            ) as base:
                yield from base.execute(query, values)
        except sqlite3.Error as error:
            raise SourceError(f"{self._path} is no readable bag of ROS 2: {error}") from error


class RecordedTopic:
    """The images of one topic, a `ClipReader`. `begin_ns` is the time at which the bag begins."""

    def __init__(self, bags: list[_Bag], topic: _Topic, *, begin_ns: int, max_px: int) -> None:
        self.topic = topic.name
        self._bags, self._begin_ns, self._max_px = bags, begin_ns, max_px
        self._decode = _decoder_of(topic, max_px)
        self.fps = _DEFAULT_FPS

    def shots(self) -> Iterator[tuple[int, Image | SourceError]]:
        """See `ClipReader`."""
        last_ns = -1
        for bag in self._bags:
            for stored in bag.messages(self.topic):
                last_ns = max(stored.at_ns - self._begin_ns, last_ns + 1)
                yield last_ns, self._image(stored.data)

    def _image(self, data: bytes) -> Image | SourceError:
        try:
            return self._decode(data)
        except SourceError as error:
            return SourceError(f"{self.topic}: {error}")
        except (ValueError, KeyError, IndexError, AssertionError, cv2.error) as error:
            return SourceError(f"{self.topic}: a broken message: {type(error).__name__}")


@dataclass(frozen=True, slots=True)
class RecordingPath:
    """`PATH` or `PATH?topic=/a&topic=/b`."""

    path: Path
    topics: tuple[str, ...] = ()


def recording_of(path: Path) -> RecordingPath | None:
    """What `path` names if it is a recording, by its first bytes. Raises `SourceError` for a bag
    of ROS 1.
    """
    asked: tuple[str, ...] = ()
    if not path.exists() and "?" in str(path):
        plain, _, query = str(path).partition("?")
        path, asked = Path(plain), tuple(parse_qs(query).get("topic", ()))
    if path.is_dir():
        has_bags = any(_bag_files(path))
        return RecordingPath(path, asked) if has_bags else None
    start = _start_of(path)
    if start.startswith(ROS1_MAGIC):
        raise SourceError(
            f"{path} is a bag of ROS 1: convert it with `rosbags-convert --src {path.name} --dst "
            f"{path.stem}` (pip install rosbags)"
        )
    return RecordingPath(path, asked) if start.startswith((MCAP_MAGIC, SQLITE_MAGIC)) else None


def open_recording(recording: RecordingPath, *, max_px: int) -> list[RecordedTopic]:
    """The topics of images of a recording, or those that were asked for. Raises `SourceError`."""
    path = recording.path
    files = _bag_files(path) if path.is_dir() else [path]
    bags = [_open_bag(file) for file in files]
    found: dict[str, _Topic] = {}
    others: set[str] = set()
    for topic in (topic for bag in bags for topic in bag.topics):
        if topic.kind in _KINDS:
            found.setdefault(topic.name, topic)
        else:
            others.add(f"{topic.name} ({topic.kind})")
    names = recording.topics or tuple(name for name in found if found[name].messages)
    missing = [name for name in names if name not in found]
    if missing or not names:
        here = ", ".join([*found, *sorted(others)][:20]) or "nothing"
        wanted = f"no topic of images {missing[0]!r}" if missing else "no topic of images"
        raise SourceError(f"{path} has {wanted}; it has {here}")
    firsts = (stored for name in names for bag in bags for stored in _first(bag, name))
    begin_ns = min((stored.at_ns for stored in firsts), default=0)
    return [RecordedTopic(bags, found[name], begin_ns=begin_ns, max_px=max_px) for name in names]


def stream_of(topic: str) -> str:
    """The name of a topic as that of a stream: `/camera/front/image_raw` is `camera_front`."""
    words = re.split(r"[^a-z0-9]+", topic.lower())
    kept = [word for word in words if word and not _LEFT_OUT.fullmatch(word)]
    return "_".join(kept or [word for word in words if word])[:64] or "cam0"


def _first(bag: _Bag, topic: str) -> Iterator[_Stored]:
    with contextlib.suppress(SourceError):  # playing it says what is wrong
        messages = bag.messages(topic)
        yield from (stored for _, stored in zip(range(1), messages, strict=False))


def _bag_files(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    return sorted(found, key=lambda path: natural_key(path.name))


def _open_bag(path: Path) -> _Bag:
    return _SqliteFile(path) if _start_of(path).startswith(SQLITE_MAGIC) else _McapFile(path)


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""


def _kind_of(schema: Any) -> str:  # a record of an optional package
    name = "" if schema is None else str(schema.name)
    short = {"sensor_msgs/Image": _ROS_IMAGE, "sensor_msgs/CompressedImage": _ROS_COMPRESSED}
    return short.get(name, name)


# --- messages ------------------------------------------------------------------------------------


def _decoder_of(topic: _Topic, max_px: int) -> Callable[[bytes], Image]:
    if topic.kind == _FOXGLOVE:
        if topic.encoding not in ("json", "protobuf"):
            raise SourceError(f"{topic.name}: {topic.encoding} of Foxglove is not read, only JSON")
        read = _json_picture if topic.encoding == "json" else _protobuf_picture
        return lambda data: decode_picture(read(data), max_px=max_px)
    if topic.encoding not in ("cdr", "ros1"):
        raise SourceError(f"{topic.name}: the encoding {topic.encoding!r} is not read")
    parse = _ros_parser(topic)
    if topic.kind == _ROS_COMPRESSED:
        return lambda data: decode_picture(bytes(parse(data).data), max_px=max_px)
    return lambda data: ros_image(parse(data), max_px=max_px)


def _ros_parser(topic: _Topic) -> Callable[[bytes], Any]:
    typesys = require("rosbags.typesys", extra=EXTRA)
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    if topic.encoding == "ros1":
        store = typesys.get_typestore(typesys.Stores.ROS1_NOETIC)
        return lambda data: store.deserialize_ros1(data, topic.kind)
    return lambda data: store.deserialize_cdr(data, topic.kind)


def ros_image(message: Any, *, max_px: int) -> Image:  # a class that `rosbags` makes
    """A `sensor_msgs/Image` as RGB u8 [H, W, 3]. Raises `SourceError` for encodings that are not
    read, and for sizes that do not fit.
    """
    height, width, step, encoding = message.height, message.width, message.step, message.encoding
    if encoding == "mono16":
        planes = 2
    elif encoding in _CODES:
        planes = _PLANES.get(encoding, 1)
    else:
        raise SourceError(f"the encoding {encoding!r:.40} is not read, only {', '.join(_CODES)}")
    flat = np.asarray(message.data, np.uint8)
    if not 0 < height * width <= max_px or step < width * planes or flat.size != step * height:
        raise SourceError(f"{flat.size} bytes are no {width}x{height} of {encoding}")
    rows = np.ascontiguousarray(flat.reshape(height, step)[:, : width * planes])
    if encoding == "mono16":
        high = rows.reshape(height, width, 2)[..., 0 if message.is_bigendian else 1]
        return np.repeat(high[..., None], 3, axis=2)
    pixels = rows.reshape(height, width, planes) if planes > 1 else rows
    code = _CODES[encoding]
    return pixels if code is None else np.asarray(cv2.cvtColor(pixels, code), np.uint8)


class _JsonPicture(msgspec.Struct):
    data: str


def _json_picture(data: bytes) -> bytes:
    try:
        return base64.b64decode(msgspec.json.decode(data, type=_JsonPicture).data)
    except msgspec.MsgspecError as error:
        raise SourceError(f"no {_FOXGLOVE}: {error}") from error


def _protobuf_picture(data: bytes) -> bytes:
    """Field 2, `data`, of foxglove.CompressedImage."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        if key & 7 == 2:
            size, place = _varint(data, place)
            if key >> 3 == 2:
                return data[place : place + size]
            place += size
        elif key & 7 == 0:
            _, place = _varint(data, place)
        else:
            place += {1: 8, 5: 4}[key & 7]
    raise SourceError(f"no picture in a {_FOXGLOVE}")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
