"""`ureca view` as a process, asked by a plain client: files, headers, refusals, live data."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.viewer.conftest import Process, ended

pytest.importorskip(
    "websockets", reason="no websockets here: that the page is served was not proven"
)

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

TOKEN = "a-token-of-32-characters-or-so-00"


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def live_at(port: int, path: str = "/live", origin: str | None = "", **more: object):
    own = f"http://127.0.0.1:{port}" if origin == "" else origin
    return connect(f"ws://127.0.0.1:{port}{path}", origin=own, open_timeout=60, **more)


@pytest.fixture(scope="module")
def alone():
    """A viewer without a node; its port."""
    nowhere = ("--events", f"tcp://127.0.0.1:{free_port()}")
    nowhere += ("--requests", f"tcp://127.0.0.1:{free_port()}")
    with ended(Process("-m", "ureca", "view", *nowhere, "--port", 0)) as viewer:
        yield int(viewer.line("ureca view: ").rstrip("/").rpartition(":")[2])


def test_the_page_and_its_files_come_with_strict_headers(alone):
    status, headers, body = get(alone, "/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    for name in ("viewer.css", "main.js", "icon.svg"):
        assert name.encode() in body
        assert get(alone, f"/{name}")[0] == 200
    assert b"<script>" not in body
    assert b"style=" not in body


@pytest.mark.parametrize(
    "path", ["/../access.py", "/%2e%2e/access.py", "/page", "/.git/config", "/live/x", "/nothing"]
)
def test_nothing_else_of_the_disk_is_served(alone, path):
    assert get(alone, path)[0] == 404


def test_other_sites_are_kept_out(alone):
    assert get(alone, "/", Host="evil.example")[0] == 403
    for origin in ("http://evil.example", None):
        with pytest.raises(InvalidStatus) as refused, live_at(alone, origin=origin):
            pass
        assert refused.value.response.status_code == 403


def test_a_long_message_ends_the_connection_and_only_that(alone):
    with live_at(alone) as socket:
        socket.send("x" * 20_000)
        with pytest.raises(ConnectionClosed):
            [socket.recv(timeout=60) for _ in range(1000)]
    assert get(alone, "/")[0] == 200


def test_so_many_pages_and_no_more(alone):
    with contextlib.ExitStack() as pages:
        for _ in range(16):
            pages.enter_context(live_at(alone))
        with pytest.raises(InvalidStatus) as refused, live_at(alone):
            pass
        assert refused.value.response.status_code == 503


def test_without_a_node_the_page_is_told_so(alone):
    with live_at(alone) as socket:
        node = json.loads(socket.recv(timeout=60))
        assert node["t"] == "node"
        assert node["lost"]
        assert json.loads(socket.recv(timeout=60)) == {"t": "reset", "events": []}
        socket.send(json.dumps({"t": "ask", "id": 4, "op": "pause", "args": {}}))
        while (answer := json.loads(socket.recv(timeout=60)))["t"] != "answer":
            pass
        assert answer["id"] == 4
        assert "lost" in answer["error"]


def test_the_network_needs_the_token():
    with ended(
        Process("-m", "ureca", "view", "--host", "0.0.0.0", "--port", 0, "--token", TOKEN)
    ) as viewer:
        url = viewer.line("ureca view: ")
        assert url.endswith(f"/?token={TOKEN}")
        port = int(url.split(":")[2].split("/")[0])
        assert get(port, "/")[0] == 403
        assert get(port, "/?token=wrong")[0] == 403
        assert get(port, f"/?token={TOKEN}")[0] == 200
        with pytest.raises(InvalidStatus), live_at(port):
            pass
        with live_at(port, f"/live?token={TOKEN}") as socket:
            assert json.loads(socket.recv(timeout=60))["t"] == "node"


def test_a_taken_port_is_said_with_the_remedy(alone):
    viewer = Process("-m", "ureca", "view", "--port", alone)
    viewer.child.communicate(timeout=60)
    assert viewer.child.returncode == 2


def test_a_live_node_is_told_and_shown(live, demo):
    clip, prompts = demo
    node = live("--source", clip, "--prompts", prompts, "--loop")
    with ended(node.viewer()) as viewer:
        port = int(viewer.line("ureca view: ").rstrip("/").rpartition(":")[2])
        with live_at(port, max_size=None) as socket:
            socket.send(json.dumps({"t": "look", "stream": "cam0"}))
            kinds, followed, shots = set(), set(), []
            while not ({"caption.final", "heartbeat"} <= kinds and followed and len(shots) >= 2):
                message = socket.recv(timeout=60)
                if isinstance(message, bytes):
                    size = int.from_bytes(message[:4], "little")
                    shots.append(json.loads(message[4 : 4 + size]))
                    assert message[4 + size :][:2] == b"\xff\xd8"
                    socket.send(json.dumps({"t": "ready"}))
                else:
                    told = json.loads(message)
                    events = told.get("events", [])
                    followed |= {one["rid"] for one in events if one["ev"].startswith("track.")}
                    if told["t"] == "events":
                        kinds |= {one["ev"] for one in events}
            assert shots[0]["seq"] != shots[1]["seq"]
            assert "track.update" not in kinds  # pictures say it
            seen = shots[1]["regions"]
            assert len(seen) > 5
            assert all(one["mask"]["size"] == [360, 640] for one in seen if one.get("mask"))


def test_a_viewer_that_a_node_started_ends_with_it(tmp_path: Path):
    port = free_port()
    where = ("--set", f"publish.events=ipc://{tmp_path}/e", "--set")
    script = Path(__file__).parents[1] / "system" / "scripted_node.py"
    command = (script, "--loop", "--quiet", *where, f"publish.requests=ipc://{tmp_path}/r")
    node = Process(*command, "--view", port)
    with ended(node):
        assert node.line("ureca view: ") == f"http://127.0.0.1:{port}/"
        assert get(port, "/")[0] == 200
        node.kill()
        until = time.monotonic() + 60
        with contextlib.suppress(OSError):  # refused, or reset while it ends
            while get(port, "/"):
                assert time.monotonic() < until
                time.sleep(0.05)


def test_bad_options_are_one_line():
    for options in (["--fps", "0"], ["--width", "9"], ["--token", "short"], ["a b"]):
        done = subprocess.run(
            [sys.executable, "-m", "ureca", "view", *options],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
