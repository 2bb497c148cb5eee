"""Who may be what: names of streams, files of others, links, the page of a viewer with a key."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from tests.faults.test_security import free_address, wait_for
from tests.node.conftest import Replay
from ureca.cli import keys as keys_command
from ureca.client.frame_publisher import FrameDealer, FramePublisher
from ureca.client.sockets import bind
from ureca.clock import ManualClock, MonotonicClock
from ureca.errors import ConfigError, WireError
from ureca.node.config import LimitsConfig, NodeConfig, PublishConfig, SecurityConfig, SourceConfig
from ureca.node.node import Node
from ureca.node.recording.cli import main as replay
from ureca.node.recording.header import head_of
from ureca.node.recording.recorder import Recorder
from ureca.node.sources.stream_owners import SILENT_NS, StreamOwners
from ureca.node.viewer.access import Guard
from ureca.protocol.event_table import event_kind
from ureca.protocol.shared_memory import PREFIX, RingReader, RingWriter, SharedPixels
from ureca.protocol.wire import Topic
from ureca.security import keys as keys_module
from ureca.security.keys import AllowList, ClientKeys, read_public
from ureca.testing import ScriptedEngine, SyntheticSource

NOBODY = 65534


# --- streams ------------------------------------------------------------------------------------


def topic(stream: str) -> bytes:
    return Topic("camera", stream, "frame").encode()


def test_a_stream_belongs_to_its_first_sender_until_it_was_silent_for_a_minute() -> None:
    clock = ManualClock()
    owners = StreamOwners(clock, max_streams=4)
    assert owners.admits(topic("front"), b"one")
    clock.advance(ns=SILENT_NS - 1)
    assert not owners.admits(topic("front"), b"two")
    assert owners.admits(topic("front"), b"one")
    clock.advance(ns=SILENT_NS)
    assert owners.admits(topic("front"), b"two")
    assert not owners.admits(topic("front"), b"one")


def test_no_camera_takes_the_place_of_one_that_may_still_come() -> None:
    owners = StreamOwners(ManualClock(), max_streams=3)
    cameras = [b"one", b"two"]
    assert [owners.admits(topic(f"x{k}"), b"one", cameras) for k in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    assert owners.admits(topic("front"), b"two", cameras)
    assert not owners.admits(topic("back"), b"two", cameras)


def test_streams_of_the_nodes_own_sources_are_nobody_elses() -> None:
    owners = StreamOwners(ManualClock(), max_streams=4, reserved=["cam1"])
    assert not owners.admits(topic("cam1"), b"one")
    assert owners.admits(b"no topic", b"one"), "it is refused for what it is"


@contextmanager
def node_with_cameras(folder: Path, *names: str) -> Iterator[tuple[Node, str]]:
    for name, *more in (("node",), *((name, "--role", "camera") for name in names)):
        keys_command.main(["new", name, *more, "-o", str(folder)])
    address = free_address()
    config = replace(
        NodeConfig(),
        source=SourceConfig(uri=f"credit+{address}"),
        limits=LimitsConfig(max_streams=2),
        publish=PublishConfig(events="tcp://127.0.0.1:*", requests="tcp://127.0.0.1:*"),
        security=SecurityConfig(
            key=str(folder / "node.key_secret"), allow=str(folder / "allow.txt")
        ),
    )
    with Node(config, ScriptedEngine(), clock=MonotonicClock()) as node:
        node.start()
        yield node, address
    assert node.balance().closed


def test_a_camera_can_neither_take_all_places_nor_anothers_name(tmp_path: Path) -> None:
    source = SyntheticSource(things=1)
    with node_with_cameras(tmp_path, "good", "evil") as (node, address):
        keys = {
            name: ClientKeys.read(tmp_path / f"{name}.key_secret", tmp_path / "node.key")
            for name in ("good", "evil")
        }

        def sends(camera: FrameDealer) -> None:
            assert camera.wait(20)
            camera.send(source.image(camera.next_seq))

        made = [FrameDealer(address, stream=f"x{k}", keys=keys["evil"]) for k in range(3)]
        good = FrameDealer(address, stream="front", keys=keys["good"])
        thief = FrameDealer(address, stream="front", keys=keys["evil"])
        try:
            for camera in made:
                sends(camera)
            wait_for(lambda: node.heartbeat().counters.get("refused_frames", 0) >= 2)
            sends(good)
            wait_for(lambda: "front" in node.heartbeat().streams)
            sends(thief)
            wait_for(lambda: node.heartbeat().counters["refused_frames"] >= 3)
            assert len(node.heartbeat().streams) == 2
            assert node.balance().frames_dropped["busy"] >= 3
        finally:
            for camera in (*made, good, thief):
                camera.close()


def test_a_silent_stream_gives_its_place_to_a_new_one() -> None:
    node = Replay(replace(NodeConfig(), limits=LimitsConfig(max_streams=1)))
    source = SyntheticSource(frames=2, things=1, with_regions="first")
    first = [source.frame(0), source.frame(1)]
    node.play(first)
    late = replace(first[1], stream="front", captured_ns=first[1].captured_ns + 59 * 10**9)
    node.play([late])
    assert node.counters.balance().frames_dropped == {"busy": 1}
    later = replace(late, captured_ns=late.captured_ns + 2 * 10**9)
    told = [event_kind(event) for event in node.play([later]).events]
    assert told.count("track.end") == 1
    assert list(node.pipeline.streams()) == ["front"]


# --- files --------------------------------------------------------------------------------------


def test_a_fifo_with_the_name_of_a_ring_stops_nobody(tmp_path: Path) -> None:
    """Opening one waits for a writer that never comes."""
    name = f"{PREFIX}1-aabb"
    os.mkfifo(tmp_path / name, 0o666)
    writer, reader = RingWriter(folder=tmp_path), RingReader(folder=tmp_path)
    with pytest.raises(WireError) as caught:
        reader.read(SharedPixels(name=name, slot=0, gen=2), 10)
    assert caught.value.code == "GONE"
    reader.close()
    writer.close()
    assert (tmp_path / name).exists(), "it is not ours to delete"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_files_of_other_users_are_neither_read_nor_deleted(tmp_path: Path) -> None:
    ring = tmp_path / f"{PREFIX}1-aabb"
    ring.write_bytes(bytes(8192))
    os.chown(ring, NOBODY, NOBODY)
    RingReader(folder=tmp_path).close()
    assert ring.exists()
    keys_command.main(["new", "node", "--role", "admin", "-o", str(tmp_path)])
    for name in ("allow.txt", "node.key"):
        os.chown(tmp_path / name, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="belongs to user"):
        AllowList(tmp_path / "allow.txt")
    with pytest.raises(ConfigError, match="belongs to user"):
        read_public(tmp_path / "node.key")


def test_folders_of_keys_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys_module.new_pair(tmp_path / "a" / "b", "me")
    finally:
        os.umask(before)
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_ipc_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            bind(router, f"ipc://{tmp_path}/one")
        camera = FramePublisher(f"ipc://{tmp_path}/two")
        modes = [stat.S_IMODE((tmp_path / "two").stat().st_mode)]
        camera.close()
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            bind(router, f"ipc://{tmp_path}/one")
            modes.append(stat.S_IMODE((tmp_path / "one").stat().st_mode))
        assert modes == [0o600, 0o600]
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_recording_opens_no_folder_that_it_names(tmp_path: Path) -> None:
    pytest.importorskip("mcap.writer")
    path = tmp_path / "evil.mcap"
    engine = ScriptedEngine()
    config = replace(NodeConfig(), bundle=str(tmp_path / "theirs"))
    recorder = Recorder(path, clock=MonotonicClock(), head=head_of(config, {}, engine.info))
    recorder.start(lambda event: None)
    recorder.close()
    opened: list[str] = []

    def engine_of(folder: str) -> ScriptedEngine:
        opened.append(folder)
        return engine

    with pytest.raises(ConfigError, match="--bundle DIR"):
        replay([str(path)], engine_of=engine_of)
    assert opened == []
    replay([str(path), "--bundle", "mine"], engine_of=engine_of)
    assert opened == ["mine"]


# --- the page -----------------------------------------------------------------------------------


def test_a_viewer_with_a_key_wants_its_token_on_loopback_too() -> None:
    guard = Guard("127.0.0.1", has_key=True)
    assert len(guard.token) >= 16
    assert guard.refusal("/", "127.0.0.1:8600", None) is not None
    assert guard.refusal(f"/?token={guard.token}", "127.0.0.1:8600", None) is None
    assert guard.refusal(f"/?token={guard.token}", "evil.example", None) is not None
    assert Guard("127.0.0.1").token == ""
