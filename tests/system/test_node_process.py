"""The node as a process of its own, watched by clients in this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ureca.client.client import Client
from ureca.node.captioning.engine_loader import SHIPPED_BUNDLE, find_demo_clip
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import CaptionFinal, TrackEvent

HERE = Path(__file__).parent


class Process:
    """A node process with addresses of its own."""

    def __init__(self, script: Path, tmp: Path, *options: object, **env: str) -> None:
        self.events, self.requests = f"ipc://{tmp}/events", f"ipc://{tmp}/requests"
        command = [sys.executable, script, "--set", f"publish.events={self.events}"]
        command += ["--set", f"publish.requests={self.requests}", *options]
        root = Path(__file__).resolve().parents[2]
        self.child = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root), **env},
        )

    def client(self) -> Client:
        return Client.connect(self.events, self.requests, timeout_s=60)

    def end(self, timeout_s: float = 60) -> tuple[int, str, str]:
        out, err = self.child.communicate(timeout=timeout_s)
        return self.child.returncode, out, err


@pytest.fixture
def demo() -> tuple[Path, Path]:
    found = find_demo_clip()
    if found is None:
        pytest.skip("no demo clip in configs/demo")
    return found


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        if process.child.poll() is None:
            process.child.kill()
        process.child.communicate()


def finals(client: Client, count: int) -> list[CaptionFinal]:
    found = []
    for event in client.events(timeout_s=60):
        if isinstance(event, CaptionFinal):
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError(f"only {len(found)} finals came")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_the_books_balance(
    tmp_path: Path, processes: list[Process], stop: signal.Signals, demo: tuple[Path, Path]
) -> None:
    clip, prompts = demo
    node = Process(
        HERE / "scripted_node.py", tmp_path, "--source", clip, "--prompts", prompts, "--loop"
    )
    processes.append(node)
    with node.client() as client:
        assert client.hello().model == "scripted"
        found = finals(client, 10)
        assert [f.event_seq for f in found] == sorted(f.event_seq for f in found)
        with node.client() as late:
            assert any(isinstance(event, CaptionFinal) for event in late.snapshot())
        node.child.send_signal(stop)
        code, out, err = node.end()
    assert code == 0, err
    assert "every frame and caption is accounted for" in out
    assert "Traceback" not in err


def test_every_frame_is_processed_without_realtime_and_events_are_written(
    tmp_path: Path, processes: list[Process], data_root: Path
) -> None:
    small = tmp_path / "dog.tar"
    names = {f"frames/{n:05}.webp" for n in range(10)} | {"masks/00000.png"}
    with tarfile.open(data_root / "videos" / "dog.tar") as whole, tarfile.open(small, "w") as part:
        for member in whole.getmembers():
            if member.name in names:
                part.addfile(member, whole.extractfile(member))
    events = tmp_path / "events.jsonl"
    node = Process(
        HERE / "scripted_node.py", tmp_path, "--source", small, "--no-realtime", "--events", events
    )
    processes.append(node)
    code, out, err = node.end()
    assert code == 0, err
    assert "frames      10 in = 10 processed + 0 dropped (none)" in out
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [line["event_seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert {"track.new", "caption.final", "track.end", "heartbeat"} <= {
        line["ev"] for line in lines
    }


def test_the_shipped_captioner_captions_the_demo(
    tmp_path: Path, processes: list[Process], repository: Path
) -> None:
    if not (SHIPPED_BUNDLE / "manifest.json").is_file() or find_demo_clip() is None:
        pytest.skip(f"no shipped bundle at {SHIPPED_BUNDLE}, or no demo clip")
    node = Process(repository / "run_node.py", tmp_path, "--duration", "60", "--loop")
    processes.append(node)
    with node.client() as client:
        seen, found = [], []
        for event in client.events(timeout_s=90):
            seen.append(event)
            found += [event] if isinstance(event, CaptionFinal) else []
            if len(found) >= 8:
                break
        seen += client.snapshot()
        told = {e.rid for e in seen if isinstance(e, TrackEvent)}
        assert {f.rid for f in found} <= told  # where it is, of every region that is captioned
        assert len({f.text for f in found}) > 1  # different things are called by different words
        assert all(f.text and f.model and f.bundle_sha and f.stage_us["vit"] > 0 for f in found)
        node.child.send_signal(signal.SIGINT)
        code, out, err = node.end()
    assert code == 0, err
    assert "every frame and caption is accounted for" in out


@pytest.mark.data
def test_a_real_clip_is_captioned_at_its_frame_rate(
    tmp_path: Path, processes: list[Process], repository: Path, data_root: Path
) -> None:
    """Life of a region, words as they grow, stamps, ages, and a late joiner, on a real clip."""
    if not (SHIPPED_BUNDLE / "manifest.json").is_file():
        pytest.skip(f"no shipped bundle at {SHIPPED_BUNDLE}")
    clip = data_root / "videos" / "dog.tar"
    node = Process(repository / "run_node.py", tmp_path, "--source", clip, "--fps", "24", "--loop")
    processes.append(node)
    with node.client() as client:
        seen, kinds = [], set()
        for event in client.events(timeout_s=60):
            seen.append(event)
            kinds.add(event_kind(event))
            if {"track.new", "caption.delta"} <= kinds and isinstance(event, CaptionFinal):
                break
        with node.client() as late:
            known = {event_kind(e) for e in late.snapshot()}
        client.shutdown()
        code, out, err = node.end()
    assert code == 0, err
    assert "every frame and caption is accounted for" in out
    event_seq = [event.event_seq for event in seen]
    assert event_seq == sorted(set(event_seq))
    assert "caption.final" in known
    final = seen[-1]
    assert final.text
    assert final.captured_ns < final.pub_ns
    assert final.age_at_pub_ms == pytest.approx((final.pub_ns - final.captured_ns) / 1e6, abs=50)
    assert {"vit", "prefill", "region", "gen"} <= set(final.stage_us)


def test_starting_the_node_imports_no_torch(repository: Path) -> None:
    script = (
        "import sys, ureca.node.cli.run, ureca.node.cli.describe; "
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, check=False)
    assert done.returncode == 0
