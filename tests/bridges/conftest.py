"""Processes around a bridge, each with its own end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ureca.client.client import Client

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = ROOT / "tests" / "system" / "scripted_node.py"


class Processes:
    """Starts python processes and ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events, self.requests = f"ipc://{folder}/events", f"ipc://{folder}/requests"
        self._all: list[subprocess.Popen[str]] = []

    def start(self, *command: object, **env: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        )
        self._all.append(child)
        return child

    def node(self, *options: object) -> subprocess.Popen[str]:
        """A node with the scripted engine."""
        where = ["--set", f"publish.events={self.events}"]
        where += ["--set", f"publish.requests={self.requests}"]
        return self.start(SCRIPTED, *where, "--quiet", *options)

    def ureca(self, *command: object) -> subprocess.Popen[str]:
        """A command that is told where the node is."""
        name, *rest = command
        where = ["--events", self.events, "--requests", self.requests]
        return self.start("-m", "ureca", name, *where, *rest)

    def client(self) -> Client:
        return Client.connect(self.events, self.requests, timeout_s=60)

    def interrupt(self, child: subprocess.Popen[str]) -> tuple[int, str, str]:
        """End one as Ctrl-C does."""
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        return child.returncode, out, err

    def close(self) -> None:
        for child in self._all:
            if child.poll() is None:
                child.kill()
            child.communicate()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path)
    yield found
    found.close()
