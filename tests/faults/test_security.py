"""Who gets in, and as what: keys, roles, revocation, replayed bytes, careless files."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.test_node_sockets import Steady, until_final
from tests.ports import free_port
from ureca.cli import keys as keys_command
from ureca.client.client import Client
from ureca.client.frame_publisher import FrameDealer, FramePublisher
from ureca.clock import Clock, MonotonicClock
from ureca.errors import ConfigError, RequestError
from ureca.invariants import imbalances
from ureca.node.access import _COVERED, check
from ureca.node.config import NodeConfig, PublishConfig, SecurityConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.node import Node
from ureca.node.sources.base import FrameSource, Wait
from ureca.protocol.operations import OPERATIONS
from ureca.security.keys import ROLES, AllowList, ClientKeys, ServerKeys
from ureca.testing import EventCapture, ScriptedEngine, SyntheticSource

SOON_S = 1.0
"""How long somebody who is not let in tries."""


def free_address() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "what was waited for did not happen"
        time.sleep(0.02)


class Guarded:
    """A node with keys, and the keys of everybody who wants something of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.make("node")
        for role in ("observe", "request", "admin", "camera"):
            self.make(role, role)
        self.make("stranger")
        self.events, self.requests = free_address(), free_address()
        self.capture = EventCapture()
        config = replace(
            NodeConfig(),
            publish=PublishConfig(events=self.events, requests=self.requests, heartbeat_s=0.1),
            security=SecurityConfig(key=str(self.file("node")), allow=str(folder / "allow.txt")),
        )

        def opened(
            config: NodeConfig, clock: Clock, counters: NodeCounters, wait: Wait
        ) -> list[FrameSource]:
            return [Steady(SyntheticSource(frames=100_000, things=3), clock, counters, wait)]

        self.node = Node(
            config,
            ScriptedEngine(),
            clock=MonotonicClock(),
            sinks=[self.capture],
            open_frames=opened,
        )
        self.node.start()

    def make(self, name: str, role: str | None = None) -> None:
        more = ["--role", role] if role else []
        assert keys_command.main(["new", name, *more, "-o", str(self.folder)]) == 0

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.key_secret"

    def keys(self, name: str, server: str = "node") -> ClientKeys:
        return ClientKeys.read(self.file(name), self.folder / f"{server}.key")

    def client(self, keys: ClientKeys | None, timeout_s: float = 20) -> Client:
        return Client.connect(self.events, self.requests, timeout_s=timeout_s, keys=keys)

    def refused(self, plane: str) -> int:
        return self.node.heartbeat().counters.get(f"refused_{plane}", 0)

    def check(self) -> None:
        self.node.close()
        found = imbalances(self.node.balance().counters(), self.capture.events)
        assert not found, found


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    made = Guarded(tmp_path / "keys")
    yield made
    made.check()


def assert_shut_out(guarded: Guarded, keys: ClientKeys | None) -> None:
    """Neither events nor answers, and both attempts are counted."""
    before = {plane: guarded.refused(plane) for plane in ("events", "requests")}
    with guarded.client(keys, SOON_S) as client:
        with pytest.raises(RequestError, match="DEADLINE"):
            client.hello()
        assert next(client.events(timeout_s=0.2), None) is None
    for plane, count in before.items():
        wait_for(lambda plane=plane, count=count: guarded.refused(plane) > count)


def test_an_allowed_key_hears_and_asks(guarded: Guarded) -> None:
    with guarded.client(guarded.keys("request")) as client:
        until_final(client)
        assert client.describe("red", stream="cam0").text == "a red thing"
        assert client.health().state == "running"
    assert guarded.refused("events") == guarded.refused("requests") == 0


def test_without_a_key_nothing_gets_in(guarded: Guarded) -> None:
    assert_shut_out(guarded, None)


def test_a_key_that_nobody_allowed_does_not_get_in(guarded: Guarded) -> None:
    assert_shut_out(guarded, guarded.keys("stranger"))


def test_a_camera_key_is_no_key_for_listeners(guarded: Guarded) -> None:
    assert_shut_out(guarded, guarded.keys("camera"))


def test_who_expects_another_node_is_shut_out(guarded: Guarded) -> None:
    """The client's side of it: a node that cannot prove its key hears nothing from us."""
    assert_shut_out(guarded, guarded.keys("request", server="stranger"))


def test_the_public_key_of_another_without_its_secret_is_worthless(guarded: Guarded) -> None:
    own, other = guarded.keys("stranger"), guarded.keys("admin")
    assert_shut_out(guarded, replace(own, own=replace(own.own, public=other.own.public)))


@pytest.mark.parametrize(
    ("role", "op", "args", "code"),
    [
        ("observe", "describe", {"stream": "cam0", "rid": "red"}, "FORBIDDEN"),
        ("observe", "policy.set", {"stream": "cam0", "policy": {"ttl_ms": 700}}, "FORBIDDEN"),
        ("observe", "shutdown", {}, "FORBIDDEN"),
        ("observe", "cancel", {"id": b"1"}, "FORBIDDEN"),
        ("observe", "snapshot", {}, None),
        ("request", "shutdown", {}, "FORBIDDEN"),
        ("request", "policy.set", {"stream": "cam0", "policy": {"ttl_ms": 700}}, None),
        ("admin", "policy.set", {"stream": "cam0", "policy": {"ttl_ms": 700}}, None),
        ("admin", "shutdown", {}, None),
    ],
)
def test_a_role_covers_what_it_says(guarded, role, op, args, code) -> None:
    with guarded.client(guarded.keys(role)) as client:
        until_final(client)
        if code is None:
            client.request(op, args)
        else:
            with pytest.raises(RequestError) as caught:
                client.request(op, args)
            assert caught.value.code == code
            assert client.health().state == "running"


def test_every_operation_has_a_role_and_new_ones_are_the_admins() -> None:
    assert _COVERED.keys() | {"admin"} == set(ROLES)
    assert _COVERED["camera"] < _COVERED["observe"] < _COVERED["request"]
    for op in (*OPERATIONS, "something.new"):
        check(op, "admin")
    for role in ("camera", "observe", "request"):
        with pytest.raises(RequestError, match="FORBIDDEN"):
            check("something.new", role)
        with pytest.raises(RequestError, match="FORBIDDEN"):
            check("shutdown", role)


# --- revocation -----------------------------------------------------------------------------------


def test_a_revoked_key_is_out_at_once_and_others_go_on(guarded: Guarded) -> None:
    with (
        guarded.client(guarded.keys("observe")) as stays,
        guarded.client(guarded.keys("request")) as goes,
    ):
        for client in (stays, goes):
            until_final(client)
            client.hello()
        keys_command.main(["revoke", "request", "-o", str(guarded.folder)])
        with pytest.raises(RequestError) as caught:
            goes.request("stats", deadline_s=5)
        assert caught.value.code in ("UNAUTHENTICATED", "DEADLINE")
        wait_for(lambda: next(goes.events(timeout_s=1.0), None) is None)
        assert next(stays.events({"heartbeat"}, timeout_s=20))
        assert stays.health().state == "running"
    assert_shut_out(guarded, guarded.keys("request"))


def test_a_key_that_is_allowed_later_gets_in_without_a_restart(guarded: Guarded) -> None:
    """Of the node; libzmq does not try again by itself after it was turned away."""
    assert_shut_out(guarded, guarded.keys("stranger"))
    public = str(guarded.folder / "stranger.key")
    keys_command.main(["allow", public, "--role", "observe", "-o", str(guarded.folder)])
    with guarded.client(guarded.keys("stranger")) as client:
        assert next(client.events({"heartbeat"}, timeout_s=20))
        assert client.health().state == "running"


def test_a_list_that_is_gone_or_open_to_others_lets_nobody_in(guarded: Guarded) -> None:
    path = guarded.folder / "allow.txt"
    path.chmod(0o666)
    allowed = AllowList.__new__(AllowList)  # as a running node holds it: read before it went bad
    allowed.path, allowed._seen, allowed._entries = path, (0, 0, 0), {b"k" * 40: ("admin", "x")}
    assert allowed.entries() == {}
    with pytest.raises(ConfigError, match="chmod go-w"):
        AllowList(path)
    path.unlink()
    assert_shut_out(guarded, guarded.keys("observe"))


# --- replayed bytes -------------------------------------------------------------------------------


class Tap:
    """A TCP proxy that keeps what each client said, as somebody on the wire would."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.said: list[bytearray] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self.said.append(bytearray())
            for pair in ((client, server, self.said[-1]), (server, client, None)):
                self._threads.append(threading.Thread(target=self._pump, args=pair))
                self._threads[-1].start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        try:
            while data := source.recv(65536):
                if kept is not None:
                    kept.extend(data)
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes whoever still waits for it
            one.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def test_recorded_bytes_of_an_admin_open_nothing(guarded: Guarded) -> None:
    """The whole conversation, HELLO to the encrypted `prompt.set`, is played to the node again."""
    tap = Tap(guarded.requests)
    keys = guarded.keys("admin")
    ask = {"stream": "cam0", "rid": "red", "prompt": "long"}
    with Client.connect(guarded.events, tap.address, timeout_s=20, keys=keys) as client:
        until_final(client)
        assert client.request("prompt.set", ask) == {"prompt_id": "long"}
        client.request("prompt.set", {**ask, "prompt": "short"})
    tap.close()
    recorded = bytes(max(tap.said, key=len))
    assert b"prompt.set" not in recorded  # it is ciphertext that was recorded
    assert keys.own.public not in recorded
    before = guarded.refused("requests")
    host, port = guarded.requests.removeprefix("tcp://").split(":")
    for step in (len(recorded), 64):  # at once, and in pieces so that each step is answered
        with socket.create_connection((host, int(port)), timeout=10) as again:
            try:
                for place in range(0, len(recorded), step):
                    again.sendall(recorded[place : place + step])
                    time.sleep(0.01)
                while again.recv(65536):
                    pass
            except ConnectionError:
                pass  # thrown out while it still spoke
    wait_for(lambda: guarded.refused("requests") >= before + 2)
    with guarded.client(guarded.keys("observe")) as client:
        regions = client.request("region.list", {"stream": "cam0"})["regions"]
        assert {region["policy"]["style"] for region in regions} == {"short"}


# --- a camera with keys ---------------------------------------------------------------------------


def test_a_camera_shows_its_pictures_to_allowed_nodes_only(tmp_path: Path) -> None:
    for name in ("camera", "node", "stranger"):
        keys_command.main(["new", name, "-o", str(tmp_path)])
    node_key = str(tmp_path / "node.key")
    keys_command.main(["allow", node_key, "--role", "observe", "-o", str(tmp_path)])
    server = ServerKeys.read(tmp_path / "camera.key_secret", tmp_path / "allow.txt")
    source = SyntheticSource(things=3)
    with FramePublisher("tcp://127.0.0.1:*", keys=server) as camera:
        nodes = {
            name: _node_on(camera.address, tmp_path, name) for name in ("node", "stranger", "")
        }
        for node in nodes.values():
            node.start()
        seen = lambda name: nodes[name].balance().frames_in  # noqa: E731
        until = time.monotonic() + 20
        while seen("node") < 10 and time.monotonic() < until:
            camera.send(source.image(camera.next_seq))
            time.sleep(0.02)
        for node in nodes.values():
            node.close()
    assert seen("node") >= 10
    assert seen("stranger") == seen("") == 0


def test_a_revoked_node_sees_no_more_pictures_and_others_do(tmp_path: Path) -> None:
    for name in ("camera", "one", "two"):
        keys_command.main(["new", name, "-o", str(tmp_path)])
    for name in ("one", "two"):
        public = str(tmp_path / f"{name}.key")
        keys_command.main(["allow", public, "--role", "observe", "-o", str(tmp_path)])
    server = ServerKeys.read(tmp_path / "camera.key_secret", tmp_path / "allow.txt")
    source = SyntheticSource(things=3)
    with FramePublisher("tcp://127.0.0.1:*", keys=server) as camera:
        nodes = {name: _node_on(camera.address, tmp_path, name) for name in ("one", "two")}
        for node in nodes.values():
            node.start()

        def send_until(condition: Callable[[], bool]) -> None:
            until = time.monotonic() + 20
            while not condition():
                assert time.monotonic() < until
                camera.send(source.image(camera.next_seq))
                time.sleep(0.02)

        def came(name: str) -> int:
            balance = nodes[name].balance()
            return balance.frames_in - balance.frames_dropped.get("link_gap", 0)

        send_until(lambda: came("one") > 5 and came("two") > 5)
        keys_command.main(["revoke", "one", "-o", str(tmp_path)])
        send_until(lambda: camera._gate.refused["pictures"] > 0)
        before = {name: came(name) for name in nodes}
        send_until(lambda: came("two") > before["two"] + 10)
        for node in nodes.values():
            node.close()
        assert came("one") == before["one"]


def test_a_revoked_camera_is_not_heard_though_it_is_connected(tmp_path: Path) -> None:
    for name, *more in (("node",), ("camera", "--role", "camera"), ("robot", "--role", "observe")):
        keys_command.main(["new", name, *more, "-o", str(tmp_path)])
    address = free_address()
    config = replace(
        NodeConfig(),
        source=SourceConfig(uri=f"credit+{address}"),
        publish=PublishConfig(events="tcp://127.0.0.1:*", requests="tcp://127.0.0.1:*"),
        security=SecurityConfig(
            key=str(tmp_path / "node.key_secret"), allow=str(tmp_path / "allow.txt")
        ),
    )
    node = Node(config, ScriptedEngine(), clock=MonotonicClock())
    node.start()
    source = SyntheticSource(things=3)
    keys = {
        name: ClientKeys.read(tmp_path / f"{name}.key_secret", tmp_path / "node.key")
        for name in ("camera", "robot")
    }
    with (
        FrameDealer(address, keys=keys["camera"]) as camera,
        FrameDealer(address, stream="cam1", keys=keys["robot"]) as robot,
    ):
        for _ in range(6):
            assert camera.wait(20)
            camera.send(source.image(camera.next_seq))
        assert not robot.wait(0.5)  # who may listen may not send
        wait_for(lambda: node.balance().frames_in == 6)  # none is on its way any more
        keys_command.main(["revoke", "camera", "-o", str(tmp_path)])
        before = node.balance().frames_in
        until = time.monotonic() + 5
        while camera.wait(0.1) and time.monotonic() < until:
            camera.send(source.image(camera.next_seq))
    counters = node.heartbeat().counters
    node.close()
    assert node.balance().frames_in <= before + 1
    assert counters["refused_frames"] > 0


def _node_on(address: str, folder: Path, name: str) -> Node:
    security = SecurityConfig()
    if name:
        security = SecurityConfig(
            key=str(folder / f"{name}.key_secret"),
            allow=str(folder / "allow.txt"),
            camera=str(folder / "camera.key"),
        )
    config = replace(
        NodeConfig(),
        source=SourceConfig(uri=f"zmq+{address}"),
        publish=PublishConfig(events="tcp://127.0.0.1:*", requests="tcp://127.0.0.1:*"),
        security=security,
    )
    return Node(config, ScriptedEngine(), clock=MonotonicClock())


# --- files ----------------------------------------------------------------------------------------
