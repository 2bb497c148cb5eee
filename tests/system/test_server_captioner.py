"""A node process whose captioner is a scripted endpoint on a real socket."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from tests.openai_server import Flaky
from tests.system.test_node_process import Process
from ureca.client.client import Client
from ureca.models.runtime.pretrained import find_bundle
from ureca.node.captioning.engine_loader import find_demo_clip
from ureca.protocol.events import AnyEvent, CaptionDelta, CaptionError, CaptionFinal, Heartbeat
from ureca.testing import SyntheticSource

pytest.importorskip("openai", reason="asking servers needs the extra `server`")
QUICK = ["scheduler.refresh_s=0.5", "scheduler.min_interval_s=0.2", "scheduler.recheck=false"]
"""Captions are asked for again and again, so that a change of the server shows soon."""


def say(prompt: str, key: str) -> str:
    numbers = re.findall(r'"(\d+)": "', prompt)
    return json.dumps(dict.fromkeys(numbers, f"a served thing {key[:6]}"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Flaky]]:
    made: list[Flaky] = []

    def start(port: int = 0) -> Flaky:
        made.append(Flaky(reply=say, port=port))
        return made[-1]

    yield start
    for server in made:
        if server.thread.is_alive():
            server.die()


def write_file(folder: Path, server: Flaky, **more: object) -> Path:
    path = folder / "server.yaml"
    path.write_text(json.dumps({"url": server.url, "model": "served-vlm", **more}))
    return path


@pytest.fixture
def start(tmp_path: Path, repository: Path) -> Iterator[Callable[..., Process]]:
    """Starts a node on the demo clip with a server as captioner."""
    found = find_demo_clip()
    if found is None:
        pytest.skip("no demo clip in configs/demo")
    clip, prompts = found
    made: list[Process] = []

    def run(server: Flaky, **more: object) -> Process:
        quick = {"timeout_s": 1.0, "retries": 0, "price_in_per_1k": 1.0}
        file = write_file(tmp_path, server, **{**quick, **more})
        options = [option for setting in QUICK for option in ("--set", setting)]
        options += ["--source", clip, "--prompts", prompts, "--loop", "--bundle", file]
        made.append(Process(repository / "run_node.py", tmp_path, *options))
        return made[-1]

    yield run
    for process in made:
        if process.child.poll() is None:
            process.child.kill()
        process.child.communicate()


def wait_for(client: Client, kind: type, count: int = 1) -> tuple[list[AnyEvent], list[AnyEvent]]:
    """The next `count` events of a kind, and all that came until then."""
    seen: list[AnyEvent] = []
    found: list[AnyEvent] = []
    for event in client.events(timeout_s=60):
        seen.append(event)
        found += [event] if isinstance(event, kind) else []
        if len(found) >= count:
            return found, seen
    raise AssertionError(f"{len(found)} of {count} {kind.__name__}")


def wait_for_frames(client: Client, count: int, *, since_ns: int) -> None:
    """Until heartbeats from after `since_ns` say that so many more frames went through."""
    first: int | None = None
    for event in client.events(timeout_s=60):
        if isinstance(event, Heartbeat) and event.pub_ns > since_ns:
            done = event.counters["frames_processed"]
            first = done if first is None else first
            if done >= first + count:
                return
    raise AssertionError(f"not {count} more frames")


def test_a_node_has_the_words_of_a_server_and_outlives_it(
    start: Callable[..., Process], serve: Callable[..., Flaky]
) -> None:
    server = serve()
    node = start(server)
    with node.client() as client:
        assert client.hello().model == "served-vlm"
        finals, _ = wait_for(client, CaptionFinal, 6)
        assert all(event.text.startswith("a served thing") for event in finals)
        assert {event.model for event in finals} == {"served-vlm"}
        assert all(event.captured_ns < event.pub_ns for event in finals)

        server.open.clear()  # slow: regions fail at their time, frames go on
        (late, *_), _ = wait_for(client, CaptionError, 3)
        assert late.code == "ENGINE"
        assert "timeout_s=1" in late.msg
        wait_for_frames(client, 10, since_ns=time.monotonic_ns())

        server.die()
        errors, _ = wait_for(client, CaptionError, 4)
        assert "is the server running there?" in errors[-1].msg
        serve(server.server_address[1])
        wait_for(client, CaptionFinal, 3)
        node.child.send_signal(signal.SIGINT)
        code, out, err = node.end()
    assert code == 0, err
    assert "every frame and caption is accounted for" in out
    assert re.search(r"server +\d+ requests, [1-9]\d* failed.*cost 0?\.?\d", out)
    assert "Traceback" not in err


def test_fast_words_of_a_live_clip_are_replaced_by_those_of_the_server(
    start: Callable[..., Process], serve: Callable[..., Flaky]
) -> None:
    if find_bundle() is None:
        pytest.skip("no shipped bundle here")
    server = serve()
    node = start(server, fallback="shipped", timeout_s=30)
    with node.client() as client:
        finals, _ = wait_for(client, CaptionFinal, 6)
        assert {event.model for event in finals} == {"served-vlm"}

        server.open.clear()  # fast words are ready before those of the server
        drafts: dict[int, list[str]] = {}
        fast: set[int] = set()
        for event in client.events(timeout_s=60):
            if isinstance(event, CaptionDelta):
                said = drafts.setdefault(event.request_id, [""])
                said.append(said[-1][: event.offset] + event.text)
                if said[-1] and not said[-1].startswith("a served"):
                    fast.add(event.request_id)
                    server.open.set()
            if isinstance(event, CaptionFinal) and event.request_id in fast:
                break
        assert event.model == "served-vlm"
        assert event.text.startswith("a served thing")
        assert drafts[event.request_id][-1] == event.text

        server.die()
        for event in client.events(timeout_s=60):
            if isinstance(event, CaptionFinal) and event.model != "served-vlm":
                break
        assert event.model.startswith("ureca-nano")
        assert not event.text.startswith("a served thing")
        node.child.send_signal(signal.SIGINT)
        code, out, err = node.end()
    assert code == 0, err
    assert "every frame and caption is accounted for" in out
    assert re.search(r"[1-9]\d* regions kept the words of ureca-nano", out)


def test_one_picture_is_described_by_a_server(
    tmp_path: Path, repository: Path, serve: Callable[..., Flaky]
) -> None:
    source = SyntheticSource()
    cv2.imwrite(str(tmp_path / "picture.png"), source.image(0)[..., ::-1])
    file = write_file(tmp_path, serve(), regions_per_request=2)
    box = ",".join(map(str, source.boxes_xyxy_px(0)["green"]))
    given = ["describe", tmp_path / "picture.png", "--box", box, "--bundle", file]
    command = [sys.executable, "-m", "ureca", *map(str, given)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a served thing" in done.stdout
    assert "1 requests, 0 failed" in done.stderr


def test_a_node_sends_no_picture_elsewhere(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("url: http://192.0.2.1/v1\nmodel: m\n")
    command = [sys.executable, repository / "run_node.py", "--bundle", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "allow_hosts: [192.0.2.1]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_node_with_a_server_imports_no_torch(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("url: http://127.0.0.1:9/v1\nmodel: m\n")
    script = (
        "import sys; from ureca.node.captioning.engine_loader import open_engine; "
        f"open_engine({str(path)!r}); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, check=False)
    assert done.returncode == 0
