"""Every program of `docs/examples.md`, run as it stands there, against a live node."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import zmq

from ureca.client.client import Client
from ureca.testing import COLOURS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "examples.md"
BOXES = {"r-red": (20, 20, 60, 50), "r-green": (90, 60, 130, 110), "r-blue": (100, 10, 140, 40)}
PERSON_AT = 15


def programs() -> dict[str, str]:
    """The Python blocks by the heading above them."""
    found: dict[str, str] = {}
    for part in PAGE.read_text("utf-8").split("\n## ")[1:]:
        blocks = re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
        assert len(blocks) == 1, f"one program under each heading, got {len(blocks)}: {part[:40]}"
        found[part.splitlines()[0]] = blocks[0]
    return found


PROGRAMS = programs()


class World:
    """A clip of three rectangles, a node that follows them, and programs that watch it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events, self.requests = f"ipc://{folder}/events", f"ipc://{folder}/requests"
        self._all: list[subprocess.Popen[str]] = []
        (folder / "clip").mkdir()
        draw = np.random.default_rng(0)
        for number in range(60):
            image = np.full((120, 160, 3), 90, np.uint8)
            for rid, (x0, y0, x1, y1) in BOXES.items():
                image[y0:y1, x0:x1] = COLOURS[rid[2:]]
            noisy = np.clip(image + draw.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / "clip" / f"{number:03}.png"), noisy[..., ::-1])
        prompts = [
            {"frame": PERSON_AT if rid == "r-green" else 0, "rid": rid, "box": box}
            for rid, box in BOXES.items()
        ]
        (folder / "prompts.json").write_text(json.dumps(prompts))

    def node(self) -> subprocess.Popen[str]:
        return self._start(
            ROOT / "tests" / "docs" / "talking_node.py",
            *("--source", self.folder / "clip", "--prompts", self.folder / "prompts.json"),
            *("--fps", 8, "--quiet", "--set", f"publish.events={self.events}"),
            *("--set", f"publish.requests={self.requests}", "--set", "scheduler.refresh_s=2"),
        )

    def program(self, title: str, *arguments: object, events: str = "") -> subprocess.Popen[str]:
        """A program of the page; only the default addresses and timeout are replaced."""
        code = PROGRAMS[title]
        assert code.count("Client.connect(") == 1
        where = f"Client.connect({events or self.events!r}, {self.requests!r}, "
        code = code.replace("Client.connect()", "Client.connect(timeout_s=60)")  # a busy machine
        path = self.folder / "program.py"
        path.write_text(code.replace("Client.connect(", where), "utf-8")
        return self._start(path, *arguments)

    def client(self) -> Client:
        return Client.connect(self.events, self.requests, timeout_s=60)

    def _start(self, *command: object) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._all.append(child)
        return child

    def close(self) -> None:
        for child in self._all:
            if child.poll() is None:
                child.kill()
            child.communicate()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.close()


def ended(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=90)
    assert child.returncode == 0, err
    return out


def until(true: Callable[[], object], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def captions(client: Client, count: int) -> None:
    """Wait for captions of so many regions."""
    seen: set[str] = set()
    for event in client.events({"caption.final"}, timeout_s=60):
        seen.add(event.rid)  # type: ignore[union-attr]
        if len(seen) == count:
            return
    raise AssertionError(f"only {seen} were captioned")


def test_all_programs_of_the_page_are_tested() -> None:
    source = Path(__file__).read_text("utf-8")
    assert [title for title in PROGRAMS if f'"{title}"' not in source] == []


def test_the_robot_stops_for_a_person(world: World) -> None:
    world.node()
    with world.client() as client:
        client.hello()
    out = ended(world.program("Stop when a person appears"))
    assert re.fullmatch(r"stop: a person in cam0 at \(\d+, \d+, \d+, \d+\)\n", out), out
    x0, y0, x1, y1 = map(int, re.findall(r"\d+", out.split("(")[1]))
    assert np.allclose((x0, y0, x1, y1), BOXES["r-green"], atol=4)


def test_the_red_mug_is_found(world: World) -> None:
    world.node()
    with world.client() as client:
        captions(client, 2)
    out = ended(world.program("Where is the red mug")).splitlines()
    found = re.fullmatch(r"\d+%: cam0, x (\d+), y (\d+)", out[0])
    assert found, out
    assert np.allclose([int(found[1]), int(found[2])], (40, 35), atol=4)
    assert ended(world.program("Where is the red mug", "flying", "carpet")) == ""


@pytest.mark.slow
def test_captions_are_in_the_database(world: World) -> None:
    path = world.folder / "captions.db"
    program = world.program("Log captions to SQLite", path)
    node = world.node()
    ended(node)  # the clip is over
    ended(program)
    with sqlite3.connect(path) as db:
        rows = db.execute("select rid, text, valid_until_ns - captured_ns from captions").fetchall()
    db.close()
    assert {(rid, text) for rid, text, _ in rows} >= {
        ("r-red", "a red mug"),
        ("r-green", "a person"),
        ("r-blue", "a blue book"),
    }
    assert max(good_ns for *_, good_ns in rows) > 10_000_000_000, "a renewal made it last longer"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is Python 3.11's")
def test_each_region_is_told_in_full(world: World) -> None:
    world.node()
    with world.client() as client:
        captions(client, 2)
    out = ended(world.program("Many requests at once, with asyncio"))
    assert "cam0/r-red in full: a red mug on a table\n" in out
    assert "cam0/r-blue in full: a blue book on a table\n" in out


class Leak:
    """Between node and program: forwards events, and loses some when it is told to."""

    def __init__(self, source: str, address: str) -> None:
        self.to_lose, self.lost = 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source, address))
        self._thread.start()

    def _run(self, source: str, address: str) -> None:
        with (
            zmq.Context() as context,
            context.socket(zmq.SUB) as sub,
            context.socket(zmq.PUB) as pub,
        ):
            sub.subscribe(b"")
            sub.connect(source)
            pub.bind(address)
            while not self._stop.is_set():
                if sub.poll(50):
                    parts = sub.recv_multipart()
                    if self.lost < self.to_lose:
                        self.lost += 1
                    else:
                        pub.send_multipart(parts)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.slow
def test_the_world_is_known_through_gaps_and_restarts(world: World) -> None:
    said: list[str] = []
    address = f"ipc://{world.folder}/leak"
    leak = Leak(world.events, address)
    try:
        node = world.node()
        title = "Keep the state of all regions through gaps and restarts"
        program = world.program(title, events=address)
        reader = threading.Thread(target=lambda: said.extend(iter(program.stdout.readline, "")))
        reader.start()
        until(lambda: any(line.startswith("another node: ") for line in said))
        leak.to_lose = 5
        until(lambda: any(line.startswith("a gap: ") for line in said))
        assert leak.lost == 5
        gap = next(line for line in said if line.startswith("a gap: "))
        assert int(re.findall(r"\d+", gap)[0]) >= 2, gap
        node.kill()
        until(lambda: any(line.startswith("silence: ") for line in said))
        before = len(said)
        world.node()
        until(lambda: any(line.startswith("another node: ") for line in said[before:]))
        program.kill()
        reader.join()
        assert program.stderr.read() == ""
    finally:
        leak.close()
