"""Clients as programs use them: after a fork, from several threads, after `close`, over IPv6."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from tests.node.inputs_rig import picture, until
from tests.ports import free_port
from ureca.cli import watch
from ureca.client.async_client import AsyncClient
from ureca.client.client import Client
from ureca.client.frame_publisher import FrameDealer, FramePublisher
from ureca.clock import MonotonicClock
from ureca.errors import ConfigError, RequestError, WireError
from ureca.node.config import NodeConfig, PublishConfig, SourceConfig
from ureca.node.node import Node
from ureca.node.sources.frame_receiver import describe_age
from ureca.testing import EventCapture, ScriptedEngine

IMAGE = picture(0)


def addresses(folder: Path) -> tuple[str, str]:
    return f"ipc://{folder}/events", f"ipc://{folder}/requests"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[str, str]]:
    events, requests = addresses(tmp_path)
    camera = f"zmq+ipc://{tmp_path}/camera"
    config = NodeConfig(
        source=SourceConfig(uri=camera), publish=PublishConfig(events=events, requests=requests)
    )
    with Node(config, ScriptedEngine(), clock=MonotonicClock()) as made:
        made.start()
        yield events, requests


def in_a_child(call: Callable[[], Any]) -> tuple[str, float]:
    """What `call` raises in a forked child, and after how long."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        begun = time.monotonic()
        try:
            said = f"returned {call()!r}"
        except Exception as error:  # noqa: BLE001  (looked at by the test)
            said = f"{type(error).__name__} {error}"
        theirs.send((said, time.monotonic() - begun))

    child = context.Process(target=work)
    child.start()
    try:
        assert ours.poll(60), "the child hangs"
        found: tuple[str, float] = ours.recv()
        return found
    finally:
        child.join(10)
        child.kill()
        child.join()
        ours.close()
        theirs.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_the_child_is_told_to_make_its_own(node: tuple[str, str]) -> None:
    with (
        Client.connect(*node) as client,
        FramePublisher(f"tcp://127.0.0.1:{free_port()}") as camera,
        FrameDealer(f"tcp://127.0.0.1:{free_port()}") as dealer,
    ):
        client.hello()
        for call in (
            client.hello,
            lambda: next(client.events(timeout_s=1)),
            lambda: camera.send(IMAGE),
            lambda: dealer.send(IMAGE),
        ):
            said, _ = in_a_child(call)
            assert "GONE" in said
            assert "make one in the child" in said
        assert in_a_child(client.close)[0] == "returned None"
        assert in_a_child(camera.close)[0] == "returned None"
        assert in_a_child(lambda: Client.connect(*node).hello().model)[0].startswith("returned '")
        client.hello()
        assert camera.send(IMAGE) == 0


def test_two_threads_on_one_client_are_told_so(tmp_path: Path) -> None:
    said: list[str] = []
    with Client.connect(*addresses(tmp_path), timeout_s=3) as client:

        def ask() -> None:
            try:
                client.hello()
            except RequestError as error:
                said.append(str(error))

        threads = [threading.Thread(target=ask, name=f"asker-{n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    busy = [text for text in said if text.startswith("BUSY")]
    assert len(said) == 4
    assert len(busy) == 3
    assert all("make one for each thread" in text and "asker-" in text for text in busy)


def test_a_client_may_wander_from_thread_to_thread(node: tuple[str, str]) -> None:
    with Client.connect(*node) as client:
        client.hello()
        models: list[str] = []
        thread = threading.Thread(target=lambda: models.append(client.hello().model))
        thread.start()
        thread.join()
        assert models == [client.hello().model]


def test_use_after_close() -> None:
    client = Client.connect(timeout_s=1)
    client.close()
    client.close()
    for call in (client.hello, lambda: next(client.events(timeout_s=1)), client.snapshot):
        with pytest.raises(RequestError, match="the client is closed"):
            call()
    camera = FramePublisher(f"tcp://127.0.0.1:{free_port()}")
    camera.close()
    camera.close()
    with pytest.raises(RequestError, match="is closed"):
        camera.send(IMAGE)

    async def use() -> None:
        later = AsyncClient.connect(timeout_s=1)
        later.close()
        with pytest.raises(RequestError, match="the client is closed"):
            await later.hello()
        with pytest.raises(RequestError, match="the client is closed"):
            async for _ in later.events(timeout_s=1):
                pass

    asyncio.run(use())


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return bool(zmq.has("ipc"))


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_ipv6() -> None:
    events, requests, frames = (f"tcp://[::1]:{free_port()}" for _ in range(3))
    heard = EventCapture()
    config = NodeConfig(
        source=SourceConfig(uri=f"zmq+{frames}"),
        publish=PublishConfig(events=events, requests=requests),
    )
    with (
        FramePublisher(frames) as camera,
        Node(config, ScriptedEngine(), clock=MonotonicClock(), sinks=[heard]) as made,
    ):
        made.start()
        with Client.connect(events, requests) as client:
            assert client.hello().model

            def send() -> bool:
                camera.send(IMAGE)
                time.sleep(0.02)
                return made.balance().frames_processed > 2

            until(send, "frames over IPv6")


def test_an_address_without_scheme_is_named() -> None:
    with pytest.raises(RequestError, match=r"did you mean tcp://localhost:6611"):
        Client.connect("localhost:6611", "tcp://localhost:6612")
    with pytest.raises(ConfigError, match=r"did you mean tcp://localhost:6611"):
        FramePublisher("localhost:6611")
    with pytest.raises(ConfigError, match=r"did you mean tcp://localhost:6611"):
        NodeConfig(publish=PublishConfig(events="localhost:6611"))
    with pytest.raises((WireError, RequestError, ConfigError)):
        FrameDealer("localhost:6611")


def test_mixed_up_clocks_are_named() -> None:
    wall_ns = time.time_ns() - time.monotonic_ns()
    said = describe_age(-wall_ns)
    assert "years in the future: `captured_ns` is `time.monotonic_ns()`" in said
    assert "days old: `captured_ns`" in describe_age(400 * 3600 * 10**9)
    assert describe_age(1_500_000_000) == "1500 ms old"
    assert describe_age(-1_500_000_000) == "stamped 1500 ms in the future"


def test_watch_says_at_once_that_nobody_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events, requests = addresses(tmp_path)
    assert watch.main(["--events", events, "--requests", requests, "--duration", "0.3"]) == 1
    said = capsys.readouterr().err
    assert f"no node answers at {requests} yet; waiting" in said


def test_watch_of_a_node_says_nothing_of_the_kind(
    node: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch.main(["--events", node[0], "--requests", node[1], "--duration", "1"]) == 0
    assert "no node" not in capsys.readouterr().err


def test_numpy_stamps_are_sent(tmp_path: Path) -> None:
    with FramePublisher(f"ipc://{tmp_path}/frames") as camera:
        assert camera.send(IMAGE, captured_ns=np.int64(time.monotonic_ns())) == 0
