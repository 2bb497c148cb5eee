"""Camera, node and subscribers are processes; each is killed or stopped while the others go on."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.test_node_process import Process
from ureca.client.client import Client
from ureca.protocol.event_table import event_kind
from ureca.protocol.events import AnyEvent, CaptionFinal, RegionEvent

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STOPPED_S = 60.0 if os.environ.get("URECA_LONG_FAULTS") else 8.0
"""Longer than the heartbeat's timeout in any case."""
Line = dict[str, Any]


class Site:
    """Addresses in one folder, and the processes that use them."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.frames = f"ipc://{tmp}/frames"
        self.started: list[subprocess.Popen[str]] = []

    def robot(self, *words: object) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "robots.py"), *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        self.started.append(child)
        return child

    def camera(self, fps: float = 20, things: int = 3) -> subprocess.Popen[str]:
        return self.robot("camera", self.frames, fps, things)

    def node(self, *options: str) -> Process:
        script = ROOT / "tests/system/scripted_node.py"
        words = ["--source", f"zmq+{self.frames}", "--quiet", "--set", "publish.heartbeat_s=0.2"]
        node = Process(script, self.tmp, *words, *options)
        self.started.append(node.child)
        return node

    def subscriber(self, name: str, node: Process) -> tuple[subprocess.Popen[str], Path]:
        path = self.tmp / f"{name}.jsonl"
        return self.robot("subscribe", node.events, node.requests, path), path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for child in made.started:
        if child.poll() is None:
            child.send_signal(signal.SIGCONT)
            child.kill()
        child.communicate()


def until(
    client: Client, wanted: Callable[[AnyEvent], bool], seconds: float = 40
) -> list[AnyEvent]:
    seen: list[AnyEvent] = []
    end = time.monotonic() + seconds
    for event in client.events(timeout_s=seconds):
        seen.append(event)
        if wanted(event):
            return seen
        if time.monotonic() > end:
            break
    raise AssertionError(f"did not come within {seconds} s: {[event_kind(e) for e in seen][-20:]}")


def is_final(event: AnyEvent, rid: str = "red") -> bool:
    return isinstance(event, CaptionFinal) and event.rid == rid


def lines(path: Path) -> list[Line]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def wait_for(holds: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def is_idle(client: Client) -> bool:
    counters = client.stats().counters
    return counters["frames_in_flight"] == counters["requests_in_flight"] == 0


def assert_orderly_end(node: Process) -> None:
    with node.client() as client:
        client.shutdown()
    code, out, err = node.end()
    assert code == 0, err
    assert "every frame and caption is accounted for" in out
    assert "Traceback" not in err


def test_a_killed_node_comes_back_and_its_subscriber_knows(site: Site) -> None:
    site.camera()
    node = site.node()
    with node.client() as client:
        before = until(client, is_final)
        node.child.kill()
        node.child.wait(20)
        before += list(client.events(timeout_s=0.5))
        again = site.node()
        after = until(client, lambda e: is_final(e) and e.session_id != before[0].session_id)
        fresh = [e for e in after if e.session_id != before[0].session_id]
        assert {e.session_id for e in before} == {before[0].session_id}
        assert [e.event_seq for e in fresh] == sorted({e.event_seq for e in fresh})
        assert client.missed == 0  # another session is no gap
        until(client, lambda e: is_final(e, "blue"))
        known = client.snapshot()
        assert {e.session_id for e in known} == {fresh[0].session_id}
        captioned = {e.rid for e in known if isinstance(e, CaptionFinal)}
        assert captioned == {"red", "green", "blue"}
        # The same names in both sessions; request ids begin anew.
        both = {e.rid for e in before if isinstance(e, RegionEvent)} & captioned
        assert both  # the same names in both sessions: (session_id, rid) tells them apart
    assert_orderly_end(again)


def test_a_killed_camera_costs_its_regions_and_the_next_one_begins_new_ones(site: Site) -> None:
    camera = site.camera()
    node = site.node("--set", "scheduler.refresh_s=1")
    with node.client() as client:
        seen = until(client, is_final)
        camera.kill()
        camera.wait(20)
        list(client.events({"track.update"}, timeout_s=1))
        wait_for(lambda: is_idle(client))
        list(client.events({"track.update"}, timeout_s=0.5))  # read what was on its way
        frames = client.stats().counters["frames_in"]
        quiet = list(client.events({"caption.final", "caption.same"}, timeout_s=3))
        assert quiet == []  # nothing is renewed without pictures: captions run out
        assert client.stats().counters["frames_in"] == frames
        assert {r.rid for r in client.regions("cam0")} == {"red", "green", "blue"}
        site.camera()
        seen += until(client, lambda e: is_final(e, "red-2"))
        told = [(e.rid, event_kind(e)) for e in seen if isinstance(e, RegionEvent)]
        assert ("red", "track.end") in told
        assert ("red-2", "track.new") in told
        end = told.index(("red", "track.end"))
        assert not [kind for rid, kind in told[end + 1 :] if rid == "red"]  # no id comes twice
        assert client.missed == 0
        assert {r.rid for r in client.regions("cam0")} == {"red-2", "green-2", "blue-2"}
    assert_orderly_end(node)


def test_a_killed_subscriber_is_missed_by_nobody(site: Site) -> None:
    site.camera()
    node = site.node()
    victim, victims = site.subscriber("victim", node)
    _, others = site.subscriber("other", node)
    wait_for(lambda: len(lines(victims)) > 50 and len(lines(others)) > 50)
    victim.send_signal(signal.SIGKILL)
    victim.wait(20)
    seen = len(lines(others))
    wait_for(lambda: len(lines(others)) > seen + 100)
    _, again = site.subscriber("again", node)
    wait_for(lambda: any(line["ev"] == "caption.final" for line in lines(again)))  # greeted
    found = [line["event_seq"] for line in lines(others)]
    assert found == list(range(found[0], found[0] + len(found)))
    assert_orderly_end(node)


@pytest.mark.timing
@pytest.mark.long
def test_a_stopped_subscriber_slows_nobody_and_catches_up(site: Site) -> None:
    """SIGSTOP for 8 s, or for 60 s with URECA_LONG_FAULTS=1."""
    site.camera(fps=30)
    node = site.node("--set", "publish.update_hz=1000")
    sleeper, sleepers = site.subscriber("sleeper", node)
    _, others = site.subscriber("other", node)
    wait_for(lambda: len(lines(sleepers)) > 300 and len(lines(others)) > 300)
    awake_s = 4.0
    start_ns = time.monotonic_ns()
    time.sleep(awake_s)
    memory = resident_bytes(node.child.pid)
    sleeper.send_signal(signal.SIGSTOP)
    stopped_ns = time.monotonic_ns()
    time.sleep(STOPPED_S)
    woken_ns = time.monotonic_ns()
    grown = resident_bytes(node.child.pid) - memory
    sleeper.send_signal(signal.SIGCONT)
    time.sleep(awake_s)

    found = lines(others)
    numbers = [line["event_seq"] for line in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    during = [line for line in found if stopped_ns <= line["at_ns"] < woken_ns]
    end_ns = woken_ns + round(awake_s * 1e9)
    both_ns = (range(start_ns, stopped_ns), range(woken_ns, end_ns))  # on both sides of the sleep
    awake = [line for line in found if any(line["at_ns"] in part for part in both_ns)]
    assert len(during) / STOPPED_S > 0.5 * len(awake) / (2 * awake_s)
    assert delay_ns(during) < 5 * delay_ns(awake)
    assert grown < 64 << 20

    wait_for(lambda: lines(sleepers)[-1]["event_seq"] > numbers[-1])  # live again
    late = [line for line in lines(sleepers) if line["pub_ns"] >= stopped_ns]
    event_seqs = [line["event_seq"] for line in late]
    assert event_seqs == list(
        range(event_seqs[0], event_seqs[0] + len(event_seqs))
    )  # fewer than 10,000: all came
    assert not any("missed" in line for line in late)
    assert late[0]["at_ns"] > woken_ns
    assert_orderly_end(node)


@pytest.mark.long
def test_a_subscriber_that_slept_too_long_learns_what_it_missed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More events than its queue and the system's buffers hold, with a queue made small."""
    monkeypatch.setenv("SCRIPTED_EVENT_HWM", "100")
    site.camera(fps=30, things=8)
    node = site.node("--set", "publish.update_hz=1000")
    sleeper, sleepers = site.subscriber("sleeper", node)
    _, others = site.subscriber("other", node)
    wait_for(lambda: len(lines(sleepers)) > 300 and len(lines(others)) > 300)
    sleeper.send_signal(signal.SIGSTOP)
    seen = len(lines(others))
    wait_for(lambda: len(lines(others)) > seen + 2000, 80)
    sleeper.send_signal(signal.SIGCONT)
    wait_for(lambda: any("missed" in line for line in lines(sleepers)))
    last = lines(others)[-1]["event_seq"]
    wait_for(lambda: lines(sleepers)[-1]["event_seq"] > last)  # live again

    found = lines(sleepers)
    numbers = [line["event_seq"] for line in found]
    assert numbers == sorted(set(numbers))  # nothing comes late or twice
    gaps = [
        after - before - 1 for before, after in itertools.pairwise(numbers) if after > before + 1
    ]
    assert [line["missed"] for line in found if "missed" in line] == gaps
    assert all(line["captions"] == 8 for line in found if "missed" in line)
    whole = [line["event_seq"] for line in lines(others)]
    assert whole == list(range(whole[0], whole[0] + len(whole)))  # the others lost nothing
    assert_orderly_end(node)


def delay_ns(found: list[Line]) -> float:
    """Median time from publication to the subscriber's hands."""
    return statistics.median(line["at_ns"] - line["pub_ns"] for line in found)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
