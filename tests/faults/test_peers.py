"""What subscribers and askers do to a node: crowds, sleepers, and answers that nobody waits for."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from tests.node.test_node_sockets import Running, until_final
from ureca.client.client import Client
from ureca.errors import RequestError
from ureca.protocol.messagepack import LIMITS
from ureca.testing import ScriptedEngine


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(str(tmp_path), ScriptedEngine())
    yield made
    made.check()


def subscriber(context: zmq.Context[zmq.Socket[bytes]], running: Running, *, hwm: int = 1000):
    sub = context.socket(zmq.SUB)
    sub.linger = 0
    sub.set_hwm(hwm)
    if hwm == 1:
        sub.setsockopt(zmq.RCVBUF, 1024)
    sub.subscribe(b"ureca2/")
    sub.connect(running.events)
    return sub


def test_fifty_subscribers_all_hear_the_node(running: Running) -> None:
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        sockets = [subscriber(context, running) for _ in range(50)]
        for one in sockets:
            stack.callback(one.close, 0)
        for one in sockets:
            assert one.poll(20_000)
            assert len(one.recv_multipart()) == 2
        with running.client() as client:
            assert client.health().state == "running"


def ages_ns(client: Client, count: int) -> list[int]:
    """Of the next events, from publication to the hands of their reader."""
    found = []
    for event in client.events(timeout_s=20):
        found.append(time.monotonic_ns() - event.pub_ns)
        if len(found) == count:
            break
    return found


@pytest.mark.timing
@pytest.mark.long
def test_a_subscriber_that_reads_nothing_slows_nobody(running: Running) -> None:
    """Buffers so small that they are full at once."""
    with zmq.Context() as context, running.client() as client:
        until_final(client)
        alone, beside = [], []
        for _ in range(3):  # in turns: a machine that is busy now and then is so for both
            alone += ages_ns(client, 50)
            sleeper = subscriber(context, running, hwm=1)
            try:
                ages_ns(client, 50)  # fills what there is
                beside += ages_ns(client, 50)
            finally:
                sleeper.close(0)
        assert statistics.median(beside) < 5 * statistics.median(alone)
        assert client.missed == 0


def test_askers_that_are_gone_before_their_answer_leave_the_node_well(running: Running) -> None:
    ask = {"v": [2, 0], "op": "describe", "args": {"stream": "cam0", "rid": "red"}}
    with running.client() as client, zmq.Context() as context:
        until_final(client)
        for _ in range(20):
            dealer = context.socket(zmq.DEALER)
            dealer.linger = 100
            dealer.connect(running.requests)
            dealer.send(msgpack.packb({**ask, "id": os.urandom(8), "deadline_ms": 5000}))
            dealer.close()
        assert patiently(client) == "a red thing"
        assert client.health().state == "running"


def patiently(client: Client) -> str:
    """Ask again as long as the questions of others are waiting."""
    for _ in range(200):
        with contextlib.suppress(RequestError):  # BUSY
            return client.describe("red", stream="cam0").text
        time.sleep(0.1)
    return "no answer"


def test_a_message_beyond_all_limits_costs_its_sender_the_connection(running: Running) -> None:
    with running.client() as client, zmq.Context() as context:
        until_final(client)
        with context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(running.requests)
            dealer.send(bytes(LIMITS.max_message_bytes + 1))
            assert not dealer.poll(1000)  # nobody answers what was never taken in
        assert client.health().state == "running"
        assert client.missed == 0


@pytest.mark.parametrize("greeting", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(9) + b"\x7f"])
def test_what_speaks_no_zeromq_is_left_standing(running: Running, greeting: bytes) -> None:
    """Half-open and foreign connections on both sockets; robots notice nothing."""
    with running.client() as client, contextlib.ExitStack() as stack:
        until_final(client)
        for address in (running.events, running.requests) * 10:
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(address.removeprefix("ipc://"))
            peer.sendall(greeting)
        with running.client() as late:
            assert late.hello().model == "scripted"
            until_final(late)
        assert client.missed == 0


@pytest.mark.parametrize("kind", ["sub", "dealer", "router"])
def test_a_socket_that_was_not_read_for_long_does_not_abort_its_process(kind, tmp_path) -> None:
    """With heartbeats libzmq 4.3.5 ends it: `_input_stopped`, `_io_error`."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("slow_reader.py"), kind, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rounds = [int(line) for line in done.stdout.split()]
    assert len(rounds) == 6, "it went through all of them"
    assert any(rounds[1:]), "and the link came back"
