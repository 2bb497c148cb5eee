"""Runs the bench once: starts the processes, sends the load, collects the samples of all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ureca.client.client import Client
from ureca.errors import RequestError, UrecaError
from ureca.node.bench.resource_usage import Meter, Usage
from ureca.node.bench.run_config import TEXTS, RunPlan
from ureca.node.bench.sender import Sent
from ureca.node.bench.subscriber import ReceivedEvent
from ureca.protocol.requests import Hello

_SAMPLE_S = 0.5
_AHEAD_NS = 300_000_000
_AFTER_S = 1.0
"""How long captions of the last frames may still arrive before the node is stopped."""
_STOP_S = 30.0
_HEARTBEAT = "publish.heartbeat_s=0.25"

Progress = Callable[[float], object]
"""Told how many seconds have passed since it was last told."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How the node is started: `command` and the options of `ureca run` after it."""

    command: tuple[str, ...] = (sys.executable, "-m", "ureca", "run")
    options: tuple[str, ...] = ()
    subscribers: int = 1
    startup_s: float = 60.0
    lost_ttl_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What one subscriber received."""

    samples: tuple[ReceivedEvent, ...]
    missed: int


@dataclass
class Raw:
    """Everything that was observed in one run; times are on the host's monotonic clock."""

    plan: RunPlan
    start_ns: int
    ready_ms: float
    spawned_ns: int
    sent: Sent
    heard: list[Heard]
    usage: list[Usage]
    model: str = ""
    precision: str = ""
    exit_code: int = 0
    load_average: tuple[float, ...] = field(default_factory=tuple)


class _Process:
    """A child whose stdin is a lifeline: it ends when the bench closes or loses it."""

    def __init__(self, command: Sequence[str], what: str, log: Path, *, talks: bool) -> None:
        self.what, self._log = what, log
        with log.open("wb") as file:
            self.child = subprocess.Popen(  # noqa: S603  (the user's own command line)
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
            )

    def line(self) -> bytes:
        """The next line of its output. Raises `UrecaError` when it ended instead."""
        assert self.child.stdout is not None
        found = self.child.stdout.readline()
        if not found:
            raise self.failure()
        return found

    def tell(self, line: bytes) -> None:
        """One line to its stdin."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(line + b"\n")
            self.child.stdin.flush()
        except BrokenPipeError as error:
            raise self.failure() from error

    def failure(self) -> UrecaError:
        """Why it ended, from the last lines of its log."""
        code = self.child.wait(_STOP_S)
        last = self._log.read_text("utf8", "replace").strip()[-600:]
        return UrecaError(
            f"the {self.what} of the bench ended with code {code}: {last or 'silent'}"
        )

    def close(self, timeout_s: float = _STOP_S) -> int:
        """Close its stdin and wait; kill it when it does not end."""
        if self.child.stdin is not None:
            self.child.stdin.close()
        try:
            code = self.child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()
        return code


def run(plan: RunPlan, setup: Setup, progress: Progress = lambda _: None) -> Raw:
    """Run one plan. Raises `UrecaError` when the node or a helper ends before its time."""
    with tempfile.TemporaryDirectory(prefix="ureca-bench-") as folder, ExitStack() as stack:
        return _BenchRun(plan, setup, Path(folder), stack).go(progress)


class _BenchRun:
    def __init__(self, plan: RunPlan, setup: Setup, folder: Path, stack: ExitStack) -> None:
        self._setup, self._folder, self._stack = setup, folder, stack
        self._plan = msgspec.structs.replace(plan, frames=f"ipc://{folder}/frames")
        self._events, self._requests = f"ipc://{folder}/events", f"ipc://{folder}/requests"
        self._usage: list[Usage] = []

    def go(self, progress: Progress) -> Raw:
        sender = self._start("sender", [sys.executable, "-m", "ureca.node.bench.sender"])
        sender.tell(msgspec.json.encode(self._plan))
        robots = [self._robot(number) for number in range(self._setup.subscribers)]
        for helper in (sender, *robots):
            helper.line()
        spawned_ns = time.monotonic_ns()
        node = self._start("node", self._node_command())
        client = self._stack.enter_context(
            Client.connect(self._events, self._requests, timeout_s=_STOP_S)
        )
        hello = self._wait_for(node, client)
        ready_ms = (time.monotonic_ns() - spawned_ns) / 1e6
        start_ns = time.monotonic_ns() + _AHEAD_NS
        sender.tell(b"%d" % start_ns)
        self._watch(node, start_ns, progress)
        sent = msgspec.json.decode(sender.line(), type=Sent)
        time.sleep(_AFTER_S)
        client.shutdown()
        code = node.child.wait(_STOP_S)
        return Raw(
            plan=self._plan,
            start_ns=start_ns,
            ready_ms=ready_ms,
            spawned_ns=spawned_ns,
            sent=sent,
            heard=[self._heard(number, robot) for number, robot in enumerate(robots)],
            usage=self._usage,
            model=hello.model,
            precision=hello.precision,
            exit_code=code,
            load_average=os.getloadavg(),
        )

    def _start(self, what: str, command: Sequence[str]) -> _Process:
        process = _Process(command, what, self._folder / f"{what}.log", talks=what != "node")
        self._stack.callback(process.close, 5.0)
        return process

    def _robot(self, number: int) -> _Process:
        module = [sys.executable, "-m", "ureca.node.bench.subscriber"]
        out = str(self._folder / f"heard-{number}")
        return self._start(f"subscriber-{number}", [*module, self._events, self._requests, out])

    def _node_command(self) -> list[str]:
        setup = self._setup
        overrides = (
            f"publish.events={self._events}",
            f"publish.requests={self._requests}",
            _HEARTBEAT,
            f"tracker.lost_ttl_s={setup.lost_ttl_s}",
            f"limits.max_regions={self._plan.most_regions(setup.lost_ttl_s)}",
        )
        command = [*setup.command, "--quiet", "--source", f"zmq+{self._plan.frames}"]
        for override in overrides:
            command += ["--set", override]
        for text in TEXTS[: self._plan.texts]:
            command += ["--text", text]
        if self._plan.auto:
            command += ["--auto", "--set", f"segmenter.max_regions={max(1, self._plan.regions)}"]
        if self._plan.panoptic:
            command += ["--panoptic", "--set", f"panoptic.max_segments={self._plan.regions}"]
        return [*command, *setup.options]

    def _wait_for(self, node: _Process, client: Client) -> Hello:
        until = time.monotonic() + self._setup.startup_s
        while time.monotonic() < until:
            if node.child.poll() is not None:
                raise node.failure()
            try:
                hello: Hello = client.call("hello", deadline_s=1.0)
            except RequestError as error:
                if error.code != "DEADLINE":
                    raise
            else:
                return hello
        raise UrecaError(f"the node did not answer within {self._setup.startup_s:g} s")

    def _watch(self, node: _Process, start_ns: int, progress: Progress) -> None:
        meter = Meter(node.child.pid)
        seconds = self._plan.warm_up_s + self._plan.duration_s
        end_ns, told_ns = start_ns + round(seconds * 1e9), start_ns
        while (now_ns := time.monotonic_ns()) < end_ns:
            if node.child.poll() is not None:
                raise node.failure()
            self._usage.append(meter.read())
            progress(max(0, now_ns - told_ns) / 1e9)
            told_ns = max(told_ns, now_ns)
            time.sleep(min(_SAMPLE_S, (end_ns - now_ns) / 1e9))
        progress(max(0.0, seconds - (told_ns - start_ns) / 1e9))

    def _heard(self, number: int, robot: _Process) -> Heard:
        if robot.close() != 0:
            raise robot.failure()
        *lines, last = (self._folder / f"heard-{number}").read_bytes().splitlines()
        samples = tuple(msgspec.json.decode(line, type=ReceivedEvent) for line in lines)
        return Heard(samples, int(msgspec.json.decode(last)["missed"]))
