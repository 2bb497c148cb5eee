"""Bags and other recordings as sources: topics are streams, stamps are those of the bag."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.node.video_rig import number_of, numbered, play
from ureca.clock import ManualClock
from ureca.errors import SourceError
from ureca.node.config import NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.factory import open_sources
from ureca.node.sources.recordings import ros_image, stream_of

mcap_writer = pytest.importorskip("mcap.writer")
typesys = pytest.importorskip("rosbags.typesys")
STORE = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
BEGIN_NS = 1_700_000_000_123_456_789
STEPS_MS = [0, 33, 71, 500, 533]
FRONT, REAR = "/camera/front/image_raw/compressed", "/camera/rear/image_raw"


def header(at_ns: int) -> object:
    time = STORE.types["builtin_interfaces/msg/Time"](at_ns // 10**9, at_ns % 10**9)
    return STORE.types["std_msgs/msg/Header"](time, "camera")


def compressed(number: int, at_ns: int) -> bytes:
    data = cv2.imencode(".jpg", numbered(number)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    kind = "sensor_msgs/msg/CompressedImage"
    message = STORE.types[kind](header(at_ns), "jpeg", np.asarray(data, np.uint8).reshape(-1))
    return bytes(STORE.serialize_cdr(message, kind))


def raw(number: int, at_ns: int) -> bytes:
    kind = "sensor_msgs/msg/Image"
    pixels = np.ascontiguousarray(numbered(number)[..., ::-1])
    message = STORE.types[kind](header(at_ns), 96, 160, "bgr8", 0, 480, pixels.reshape(-1))
    return bytes(STORE.serialize_cdr(message, kind))


Make = Callable[[int, int], bytes]
TOPICS: dict[str, tuple[str, Make]] = {
    FRONT: ("sensor_msgs/msg/CompressedImage", compressed),
    REAR: ("sensor_msgs/msg/Image", raw),
}


def messages() -> list[tuple[str, int, bytes]]:
    found = []
    for place, (topic, (_, make)) in enumerate(TOPICS.items()):
        for number, step_ms in enumerate(STEPS_MS):
            at_ns = BEGIN_NS + (step_ms + 10 * place) * 1_000_000
            found.append((topic, at_ns, make(10 * place + number, at_ns)))
    return sorted(found, key=lambda one: one[1])


def mcap_file(path: Path, *, is_cut: bool = False) -> Path:
    with path.open("wb") as file:
        writer = mcap_writer.Writer(file, chunk_size=2000)
        writer.start(profile="ros2", library="test")
        channels = {}
        for topic, (kind, _) in TOPICS.items():
            schema = writer.register_schema(name=kind, encoding="ros2msg", data=b"")
            channels[topic] = writer.register_channel(
                topic=topic, message_encoding="cdr", schema_id=schema
            )
        text = writer.register_schema(name="std_msgs/msg/String", encoding="ros2msg", data=b"")
        writer.register_channel(topic="/said", message_encoding="cdr", schema_id=text)
        for topic, at_ns, data in messages():
            writer.add_message(channels[topic], log_time=at_ns, publish_time=at_ns, data=data)
        writer.finish()
    if is_cut:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def db3_file(path: Path) -> Path:
    base = sqlite3.connect(path)
    base.execute(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
        "serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL)"
    )
    base.execute(
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, "
        "timestamp INTEGER NOT NULL, data BLOB NOT NULL)"
    )
    places = {}
    for place, (topic, (kind, _)) in enumerate(TOPICS.items(), 1):
        places[topic] = place
        base.execute("INSERT INTO topics VALUES (?, ?, ?, 'cdr', '')", (place, topic, kind))
    for topic, at_ns, data in messages():
        base.execute(
            "INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)",
            (places[topic], at_ns, data),
        )
    base.commit()
    base.close()
    return path


def folder(path: Path, make: Callable[[Path], Path], name: str) -> Path:
    path.mkdir()
    make(path / name)
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n")
    return path


MAKES: dict[str, Callable[[Path], Path]] = {
    "a.mcap": mcap_file,
    "a.db3": db3_file,
    "mcap folder": lambda path: folder(path, mcap_file, "a_0.mcap"),
    "sqlite folder": lambda path: folder(path, db3_file, "a_0.db3"),
    "no suffix": mcap_file,
}


@pytest.mark.parametrize("name", MAKES)
def test_each_topic_of_images_is_a_stream_with_the_bags_stamps(tmp_path: Path, name: str) -> None:
    path = MAKES[name](tmp_path / name)
    clock = ManualClock()

    def wait(seconds: float) -> bool:
        clock.advance(ns=round(seconds * 1e9))
        return False

    config = replace(NodeConfig(), source=SourceConfig(uri=str(path)))
    sources = open_sources(config, clock=clock, counters=NodeCounters(), wait=wait)
    assert len(sources) == 2
    streams = [list(source.frames()) for source in sources]
    assert [frames[0].stream for frames in streams] == ["camera_front", "camera_rear"]
    for place, frames in enumerate(streams):
        assert [number_of(frame.image) for frame in frames] == [10 * place + n for n in range(5)]
        times = [round((frame.captured_ns - frames[0].captured_ns) / 1e6) for frame in frames]
        assert times == STEPS_MS


@pytest.mark.parametrize("topic", [FRONT, REAR])
def test_a_topic_may_be_chosen(tmp_path: Path, topic: str) -> None:
    path = mcap_file(tmp_path / "a.mcap")
    played = play(f"{path}?topic={topic}")
    assert len(played.frames) == 5
    assert {frame.stream for frame in played.frames} == {"cam0"}
    with pytest.raises(SourceError, match=r"'/other'; it has .*/camera/front.*/said"):
        play(f"{path}?topic=/other")


def test_a_cut_bag_is_played_up_to_the_cut_and_then_an_error(tmp_path: Path) -> None:
    path = mcap_file(tmp_path / "a.mcap", is_cut=True)
    played = play(f"{path}?topic={FRONT}")
    assert 1 <= len(played.frames) < 5
    assert "cut off" in str(played.failure)


def test_pictures_of_foxglove_as_json_and_protobuf(tmp_path: Path) -> None:
    jpeg = bytes(cv2.imencode(".png", numbered(7)[..., ::-1])[1])
    plain = json.dumps({"data": base64.b64encode(jpeg).decode(), "format": "png"}).encode()
    size, length = len(jpeg), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    packed = b"\x0a\x02\x08\x05" + b"\x12" + length + bytes([size]) + jpeg + b"\x1a\x03png"
    for encoding, data in (("json", plain), ("protobuf", packed)):
        path = tmp_path / f"{encoding}.mcap"
        with path.open("wb") as file:
            writer = mcap_writer.Writer(file)
            writer.start()
            schema = writer.register_schema(
                name="foxglove.CompressedImage", encoding=encoding, data=b""
            )
            channel = writer.register_channel(
                topic="/cam0/image", message_encoding=encoding, schema_id=schema
            )
            writer.add_message(channel, log_time=BEGIN_NS, publish_time=0, data=data)
            writer.finish()
        assert play(path).numbers == [7]


def test_a_bag_of_ros_1_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.bag"
    path.write_bytes(b"#ROSBAG V2.0\n" + bytes(100))
    with pytest.raises(SourceError, match="rosbags-convert"):
        play(path)


@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "uyvy", "rgba8", "mono8", "mono16"])
def test_encodings_of_ros_give_a_picture(encoding: str) -> None:
    class Message:
        height, width, is_bigendian = 48, 64, 0

    image = np.full((48, 64, 3), 120, np.uint8)
    if encoding in {"yuv422_yuy2", "uyvy"}:
        pixels = np.full((48, 64, 2), 128, np.uint8)
        pixels[..., 0 if encoding == "yuv422_yuy2" else 1] = 119
    elif encoding == "mono16":
        pixels = np.full((48, 64), 120 * 257, "<u2").view(np.uint8)
    else:
        pixels = image[..., 0] if encoding == "mono8" else np.dstack([image, image[..., :1]])
    message = Message()
    message.encoding, message.data = encoding, np.ascontiguousarray(pixels).reshape(-1)
    message.step = message.data.size // 48
    found = ros_image(message, max_px=10_000)
    assert found.shape == (48, 64, 3)
    assert np.abs(found.astype(int) - 120).max() <= 3
    message.data = message.data[:-1]
    with pytest.raises(SourceError, match="64x48"):
        ros_image(message, max_px=10_000)
    message.encoding = "16UC7"
    with pytest.raises(SourceError, match="16UC7"):
        ros_image(message, max_px=10_000)


def test_names_of_streams() -> None:
    assert stream_of("/camera/front/image_raw/compressed") == "camera_front"
    assert stream_of("/image_raw") == "image_raw"
    assert stream_of("/cam0/image") == "cam0"
