"""What subscribers and askers do to a node: crowds, sleepers, and answers that nobody waits for."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from tests.node.test_node_sockets import Running, until_final
from ureca.testing import ScriptedEngine


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(str(tmp_path), ScriptedEngine())
    yield made
    made.check()


def subscriber(context: zmq.Context[zmq.Socket[bytes]], running: Running, *, hwm: int = 1000):
    socket = context.socket(zmq.SUB)
    socket.linger = 0
    socket.set_hwm(hwm)
    if hwm == 1:
        socket.setsockopt(zmq.RCVBUF, 1024)
    socket.subscribe(b"ureca1/")
    socket.connect(running.events)
    return socket


def test_fifty_subscribers_all_hear_the_node(running: Running) -> None:
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        sockets = [subscriber(context, running) for _ in range(50)]
        for socket in sockets:
            stack.callback(socket.close, 0)
        for socket in sockets:
            assert socket.poll(20_000)
            assert len(socket.recv_multipart()) == 2
        with running.client() as client:
            assert client.health().state == "running"


def test_a_subscriber_that_reads_nothing_slows_nobody(running: Running) -> None:
    """A short stand-in for 60 s of SIGSTOP: buffers so small that they are full at once."""
    with zmq.Context() as context, running.client() as client:
        sleeper = subscriber(context, running, hwm=1)
        try:
            until_final(client)
            ages = []
            until = time.monotonic() + 2
            for event in client.events(timeout_s=5):
                ages.append(time.monotonic_ns() - event.pub_ns)
                if time.monotonic() > until:
                    break
            assert len(ages) > 20
            assert sorted(ages)[len(ages) // 2] < 0.5e9
            assert client.missed == 0
        finally:
            sleeper.close(0)


def test_askers_that_are_gone_before_their_answer_leave_the_node_well(running: Running) -> None:
    ask = {"v": [1, 0], "op": "describe", "args": {"stream": "cam0", "rid": "red"}}
    with running.client() as client, zmq.Context() as context:
        until_final(client)
        for _ in range(20):
            dealer = context.socket(zmq.DEALER)
            dealer.linger = 100
            dealer.connect(running.requests)
            dealer.send(msgpack.packb({**ask, "id": os.urandom(8), "deadline_ms": 5000}))
            dealer.close()
        assert client.describe("red", stream="cam0").text == "a red thing"
        assert client.health().state == "running"
