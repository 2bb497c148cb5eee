"""Two hosts, as docs/security.md sets them up: network namespaces joined by a cable, keys on both
sides, and a monotonic clock that is five seconds off on one (a time namespace).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ureca.cli import keys as keys_command

HERE = Path(__file__).parent
NODE_IP, PEER_IP = "10.213.77.1", "10.213.77.2"
EVENTS, REQUESTS = f"tcp://{NODE_IP}:5601", f"tcp://{NODE_IP}:5602"
FRAMES = f"tcp://{PEER_IP}:5600"
NOT_PROVEN = "two hosts with other clocks and CURVE between them were not tried"


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


class Hosts:
    """`node` and `peer`: two network namespaces, one cable; the peer's clock is `skew_s` off."""

    def __init__(self, skew_s: int) -> None:
        self.skew_s = skew_s
        self.names = {side: f"ureca-{side}-{os.getpid()}" for side in ("node", "peer")}
        self.children: list[subprocess.Popen[str]] = []

    def open(self) -> None:
        for name in self.names.values():
            run("ip", "netns", "add", name)
        a, b = self.names.values()
        run("ip", "link", "add", "urn", "netns", a, "type", "veth", "peer", "urp", "netns", b)
        for name, link, address in ((a, "urn", NODE_IP), (b, "urp", PEER_IP)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        run(*self.on("peer"), "true")

    def on(self, side: str) -> list[str]:
        inside = ["ip", "netns", "exec", self.names[side]]
        if side == "peer":
            inside += [
                "unshare",
                "--time",
                "--monotonic",
                str(self.skew_s),
                "--fork",
                "--kill-child",
            ]
        return inside

    def start(self, side: str, *command: object) -> subprocess.Popen[str]:
        root = str(HERE.parents[1])
        child = subprocess.Popen(
            [*self.on(side), sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.children.append(child)
        return child

    def close(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        for name in self.names.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                run("ip", "netns", "delete", name)


@pytest.fixture(params=[5, -5], ids=["ahead", "behind"])
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip(f"needs root, ip and unshare; {NOT_PROVEN}")
    made = Hosts(request.param)
    try:
        made.open()
    except subprocess.CalledProcessError as error:
        made.close()
        pytest.skip(f"no network or time namespaces here ({error.stderr!r:.80}); {NOT_PROVEN}")
    yield made
    made.close()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The files of both hosts; on real ones each has its own and the public ones of the others."""
    folder = tmp_path / "keys"
    for name, *more in (
        ("node",),
        ("camera",),
        ("robot", "--role", "observe"),
        ("admin", "--role", "admin"),
        ("stranger",),
    ):
        keys_command.main(["new", name, *more, "-o", str(folder)])
    public = str(folder / "node.key")
    keys_command.main(["allow", public, "--role", "observe", "-o", str(folder / "camera")])
    return folder


def start_node(hosts: Hosts, keys: Path) -> subprocess.Popen[str]:
    settings = {
        "publish.events": EVENTS,
        "publish.requests": REQUESTS,
        "scheduler.refresh_s": 1,
        "security.key": keys / "node.key_secret",
        "security.allow": keys / "allow.txt",
        "security.camera": keys / "camera.key",
    }
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    script = HERE / "scripted_node.py"
    return hosts.start("node", script, "--source", f"zmq+{FRAMES}", "--quiet", *options)


def robot(hosts: Hosts, keys: Path, role: str) -> dict[str, object]:
    child = hosts.start("peer", HERE / "skewed_peer.py", "robot", keys, EVENTS, REQUESTS, role)
    out, err = child.communicate(timeout=200)
    assert child.returncode == 0, err
    return json.loads(out)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hosts_with_keys_agree_on_ages_though_their_clocks_differ(hosts, keys) -> None:
    hosts.start("peer", HERE / "skewed_peer.py", "camera", keys, FRAMES, 240)
    node = start_node(hosts, keys)
    skew_ms = hosts.skew_s * 1e3
    said = robot(hosts, keys, "admin")
    # the estimate of `time` holds the truth within its own bound (and the kernel's microseconds)
    assert abs(said["offset_ns"] / 1e6 + skew_ms) <= said["error_ns"] / 1e6 + 0.1
    finals = said["finals"]
    assert len(finals) == 12
    for final in finals:
        assert final["clk"] == "mono"
        assert final["age_at_pub_ms"] >= 0
        # The camera stands beside the robot and knows the true age. Two roundings apart, what is
        # left out is the shortest way of a frame; half the skew tells that from a raw comparison.
        bound_ms = said["error_ns"] / 1e6 + 1
        assert final["age_ms"] <= final["true_age_ms"] + bound_ms
        assert final["true_age_ms"] - final["age_ms"] < abs(skew_ms) / 2
        assert abs(final["true_age_ms"] - final["raw_age_ms"]) > abs(skew_ms) / 2
    assert said["counters"].get("refused_events", 0) == 0
    assert not said["broken"]
    out, err = node.communicate(timeout=60)
    assert node.returncode == 0, out + err


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_stranger_on_the_cable_gets_nothing(hosts, keys) -> None:
    if hosts.skew_s < 0:
        pytest.skip("once is enough: clocks play no part")
    start_node(hosts, keys)
    child = hosts.start(
        "peer", HERE / "skewed_peer.py", "robot", keys, EVENTS, REQUESTS, "stranger"
    )
    out, err = child.communicate(timeout=200)
    assert child.returncode == 1
    assert not out
    assert "DEADLINE" in err


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_pulled_cable_is_noticed_by_who_only_listens(hosts) -> None:
    """A subscriber has nothing to send, so that only keep-alive can tell it."""
    if hosts.skew_s < 0:
        pytest.skip("once is enough: clocks play no part")
    hosts.start("peer", HERE / "cable.py", "publish", FRAMES)
    listener = hosts.start("node", HERE / "cable.py", "subscribe", FRAMES)
    assert listener.stdout.readline() == "heard\n"
    run("ip", "-n", hosts.names["peer"], "link", "set", "urp", "down")
    assert listener.stdout.readline() == "lost\n"
    run("ip", "-n", hosts.names["peer"], "link", "set", "urp", "up")
    assert listener.stdout.readline() == "heard\n"
