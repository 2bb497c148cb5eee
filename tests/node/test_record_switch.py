"""Recordings that a client begins and ends while the node runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.test_node_sockets import Steady, start, until_final  # noqa: F401  (a fixture)
from ureca.client.client import Client
from ureca.clock import Clock, MonotonicClock
from ureca.errors import RequestError, SourceError, WireError
from ureca.invariants import imbalances
from ureca.node.config import NodeConfig, PublishConfig
from ureca.node.counters import NodeCounters
from ureca.node.node import Node
from ureca.node.recording.cli import main as replay
from ureca.node.recording.header import head_of
from ureca.node.recording.recorder import Recorder
from ureca.node.recording.remote_control import RecordSwitch
from ureca.node.sources.base import FrameSource, Wait
from ureca.testing import EventCapture, ScriptedEngine, SyntheticSource

reader = pytest.importorskip("mcap.reader")


@contextmanager
def recorded(tmp: Path, *, first: Path | None = None) -> Iterator[Client]:
    """A node with a folder for recordings, and a client of it."""
    events, requests = f"ipc://{tmp}/events", f"ipc://{tmp}/requests"
    config = replace(NodeConfig(), publish=PublishConfig(events=events, requests=requests))
    clock, engine, capture = MonotonicClock(), ScriptedEngine(), EventCapture()
    head = head_of(config, {}, engine.info)
    begun = None if first is None else Recorder(first, clock=clock, head=head)
    switch = RecordSwitch(tmp, clock=clock, head=head, first=begun)

    def opened(
        config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait
    ) -> list[FrameSource]:
        return [Steady(SyntheticSource(frames=10**6), clock, counters, wait)]

    node = Node(
        config, engine, clock=clock, sinks=[capture, switch], open_frames=opened, recorder=switch
    )
    node.start()
    try:
        with Client.connect(events, requests, timeout_s=20) as client:
            yield client
    finally:
        node.close()
        switch.close()
    found = imbalances(node.balance().counters(), capture.events)
    assert not found, found


def topics(path: Path) -> dict[str, int]:
    with path.open("rb") as file:
        summary = reader.make_reader(file).get_summary()
    assert summary is not None
    counts = summary.statistics.channel_message_counts
    return {channel.topic: counts[key] for key, channel in summary.channels.items()}


def test_two_recordings_of_one_run(tmp_path: Path) -> None:
    with recorded(tmp_path) as client:
        until_final(client)
        assert client.start_recording("one") == str(tmp_path / "one.mcap")
        with pytest.raises(RequestError, match="BUSY"):
            client.start_recording("two")
        list(client.events({"track.update"}, timeout_s=0.01))
        until = client.stats().counters["frames_in"] + 10
        while client.stats().counters["frames_in"] < until:
            pass
        told = client.stop_recording()
        assert told == {"file": str(tmp_path / "one.mcap"), "failure": None, "lost": {}}
        with pytest.raises(RequestError, match="NOT_FOUND"):
            client.stop_recording()
        with pytest.raises(RequestError, match="exists"):
            client.start_recording("one")
        client.start_recording("two")
        assert client.describe("red", stream="cam0").text == "a red thing"
    found = topics(tmp_path / "one.mcap")
    assert found["/cam0/image"] >= 5
    assert {"/cam0/tracks", "/cam0/outlines"} <= found.keys()
    assert topics(tmp_path / "two.mcap")  # finished by the end of the node
    with pytest.raises(SourceError, match=r"begun by record\.start"):
        replay([str(tmp_path / "one.mcap")], engine_of=lambda folder: ScriptedEngine())


def test_a_recording_from_the_start_is_stopped_and_replays(tmp_path: Path) -> None:
    path = tmp_path / "whole.mcap"
    with recorded(tmp_path, first=path) as client:
        until_final(client)
        assert client.stop_recording()["file"] == str(path)
        until_final(client, 1) if client.set_prompt("cam0", "long") else None
    assert replay([str(path)], engine_of=lambda folder: ScriptedEngine()) == 0


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "UP", "x" * 65, "a.mcap"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with recorded(tmp_path) as client:
        with pytest.raises((RequestError, WireError), match="BAD_SCHEMA"):
            client.start_recording(name)
    assert not list(tmp_path.glob("*.mcap"))


def test_without_a_folder_clients_record_nothing(start: Callable[..., object]) -> None:  # noqa: F811
    running = start()
    with running.client() as client:  # type: ignore[attr-defined]
        for ask in (lambda: client.start_recording("one"), client.stop_recording):
            with pytest.raises(RequestError, match=r"FORBIDDEN.*--record-dir"):
                ask()


def test_a_link_in_the_folder_leads_no_recording_out_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "one.mcap").symlink_to(outside)
    with recorded(folder) as client, pytest.raises(RequestError, match="exists"):
        client.start_recording("one")
    assert not outside.exists()
