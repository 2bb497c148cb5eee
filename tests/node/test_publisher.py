"""The publisher alone: a real socket, and a clock that stands still until it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from ureca.clock import ManualClock
from ureca.node.config import PublishConfig
from ureca.node.counters import NodeCounters
from ureca.node.publishing.publisher import Publisher
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import AnyEvent, Heartbeat, TrackNew
from ureca.protocol.wire import decode_event

CUP = TrackNew(stream="cam0", rid="cup", seq=1, captured_ns=1, box=(1, 2, 3, 4))
LAST = Heartbeat(uptime_ms=1, state="running", counters={}, streams={}, model="none")
WAIT_MS = 20_000


class Hall:
    """A publisher and those who join it, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.clock = ManualClock(1_000_000_000)
        self.address = f"ipc://{folder}/events"
        config = PublishConfig(events=self.address, requests=f"ipc://{folder}/requests")
        self.publisher = Publisher(
            self.context,
            config,
            max_regions=32,
            session_id=bytes(16),
            clock=self.clock,
            counters=NodeCounters(),
        )
        self.joined: list[zmq.Socket[bytes]] = []

    def join(self) -> zmq.Socket[bytes]:
        """One more subscriber, of whom the publisher has heard."""
        socket = self.context.socket(zmq.SUB)
        self.joined.append(socket)
        socket.subscribe(b"ureca2/")
        socket.connect(self.address)
        assert self.publisher.socket.poll(WAIT_MS)
        self.publisher.replay_last_values()
        return socket

    def close(self) -> None:
        for socket in self.joined:
            socket.close(0)
        self.publisher.close()
        self.context.term()


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    made = Hall(tmp_path)
    yield made
    made.close()


def heard(socket: zmq.Socket[bytes]) -> list[str]:
    """The kinds of events up to the heartbeat that ends the test."""
    found: list[AnyEvent] = []
    while not found or event_kind(found[-1]) != "heartbeat":
        assert socket.poll(WAIT_MS), f"only {found}"
        found.append(decode_event(socket.recv_multipart()))
    assert [event.event_seq for event in found] == sorted({event.event_seq for event in found})
    return [event_kind(event) for event in found]


def test_a_crowd_of_joiners_shares_one_greeting(hall: Hall) -> None:
    """Greetings go to everybody: one per joiner would flood those who have been there for long."""
    hall.publisher.publish(CUP)
    early = hall.join()
    crowd = [hall.join() for _ in range(10)]
    hall.clock.advance(ms=1000)
    hall.publisher.replay_last_values()
    hall.publisher.publish(LAST)
    assert [heard(one) for one in crowd] == [["track.new", "heartbeat"]] * len(crowd)
    assert heard(early) == ["track.new", "track.new", "heartbeat"]
