"""Nodes and viewers as processes of their own, and a browser to look with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A process that is gone after the test, whatever the test did."""

    def __init__(self, *command: object, **more: object) -> None:
        self.child = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            **more,
        )

    def line(self, start: str) -> str:
        """The rest of the first line that starts so."""
        for line in self.child.stdout:
            if line.startswith(start):
                return line.removeprefix(start).strip()
        raise AssertionError(f"it ended without saying {start!r}")

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


class Live:
    """A node on addresses that stay its own when it is killed and started again."""

    def __init__(self, folder: Path, script: Path, *options: object) -> None:
        self.events, self.requests = f"ipc://{folder}/events", f"ipc://{folder}/requests"
        self._command = [script, "--quiet", *options]
        self._command += ["--set", f"publish.events={self.events}"]
        self._command += ["--set", f"publish.requests={self.requests}"]
        self.start()

    def start(self) -> None:
        self.process = Process(*self._command)

    def viewer(self, *options: object) -> Process:
        where = ("--events", self.events, "--requests", self.requests, "--port", 0)
        return Process("-m", "ureca", "view", *where, *options)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Starts a node with the scripted engine (or `script`), and ends it."""
    scripted = ROOT / "tests" / "system" / "scripted_node.py"
    started: list[Live] = []

    def start(*options: object, script: Path = scripted) -> Live:
        started.append(Live(tmp_path, script, *options))
        return started[-1]

    yield start
    for node in started:
        node.process.kill()
        node.process.child.stdout.close()


@contextmanager
def ended(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.kill()
        process.child.stdout.close()


@pytest.fixture(scope="session")
def demo() -> tuple[Path, Path]:
    folder = ROOT / "configs" / "demo"
    if not (folder / "tabletop.mp4").is_file():
        pytest.skip("no demo clip: that a page shows a live node was not proven")
    return folder / "tabletop.mp4", folder / "prompts.json"
