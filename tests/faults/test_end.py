"""The end of a process while one of its threads is inside a native call."""

from __future__ import annotations

import ast
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ureca.client.client import Client
from ureca.clock import MonotonicClock
from ureca.datatypes import Frame
from ureca.models.runtime.ort import make_run_options, open_session
from ureca.native_threads import NativeThread, running
from ureca.node.captioning.engine_loader import find_demo_clip
from ureca.node.cli.signals import Signals
from ureca.node.counters import NodeCounters
from ureca.node.monitoring.health import HealthMonitor
from ureca.node.pipeline import source_thread
from ureca.node.pipeline.source_thread import SourceThread
from ureca.node.sources.frame_mailbox import Mailbox
from ureca.testing import ScriptedEngine

onnx = pytest.importorskip("onnx", reason="the native calls are an ONNX graph made here")

HERE = Path(__file__).parent
EVERYTHING = ("--set", "segmenter.model=scripted", "--set", "segmenter.everything=true")
NO_CAMERA = ("--source", "rtsp://127.0.0.1:9/none")


def graph(path: Path, *, side: int, count: int) -> Path:
    """`count` products of matrices of `side` x `side`, one after the other."""
    names = [*(f"x{n}" if n else "x" for n in range(count)), "y"]
    nodes = [
        onnx.helper.make_node("MatMul", [one, "x"], [then])
        for one, then in itertools.pairwise(names)
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (side, side))
        for name in ("x", "y")
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "work", ends[:1], ends[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graph(tmp_path_factory.mktemp("native") / "work.onnx", side=64, count=4)


class Native:
    """A process of `native_node.py`."""

    def __init__(self, tmp: Path, *words: object) -> None:
        self.events, self.requests = f"ipc://{tmp}/events", f"ipc://{tmp}/requests"
        command = [sys.executable, HERE / "native_node.py", *words]
        command += ["--set"] * (words[1] != "library") + [f"publish.events={self.events}"]
        command += ["--set"] * (words[1] != "library") + [f"publish.requests={self.requests}"]
        self.child = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        )

    def check(self, left: str = "left behind", *, code: int = 0) -> None:
        """It has ended as a process should."""
        out, err = self.child.communicate(timeout=90)
        assert (self.child.returncode, left in err) == (code, True), err[-2000:]
        assert "every frame and caption is accounted for" in out
        assert "terminate called" not in err
        assert "Traceback" not in err


@pytest.fixture
def demo() -> tuple[object, ...]:
    found = find_demo_clip()
    if found is None:
        pytest.skip("no demo clip in configs/demo")
    return "--source", found[0], "--prompts", found[1]


@pytest.fixture
def natives() -> Iterator[list[Native]]:
    started: list[Native] = []
    yield started
    for native in started:
        if native.child.poll() is None:
            native.child.kill()
        native.child.communicate()


def test_a_segmenter_at_work_does_not_abort_the_end(
    tmp_path: Path, work: Path, demo: tuple[object, ...], natives: list[Native]
) -> None:
    options = ("--loop", "--duration", 1, "--events", tmp_path / "events.jsonl", *EVERYTHING)
    natives.append(Native(tmp_path, work, "segmenter", 12, *demo, *options))
    natives[0].check()
    assert '"heartbeat"' in (tmp_path / "events.jsonl").read_text().splitlines()[-1]


@pytest.mark.long
def test_a_clip_that_ends_under_a_segmenter_at_work(
    tmp_path: Path, work: Path, demo: tuple[object, ...], natives: list[Native]
) -> None:
    natives.append(Native(tmp_path, work, "segmenter", 20, *demo, *EVERYTHING))
    natives[0].check()


@pytest.mark.parametrize(
    "numbers",
    [
        ("SIGINT", "SIGINT"),
        pytest.param(("SIGINT",), marks=pytest.mark.long),
        pytest.param(("SIGTERM",), marks=pytest.mark.long),
    ],
)
def test_a_captioner_at_work_does_not_abort_the_end(
    tmp_path: Path,
    work: Path,
    demo: tuple[object, ...],
    natives: list[Native],
    numbers: tuple[str, ...],
) -> None:
    natives.append(native := Native(tmp_path, work, "captioner", 20, *demo, "--loop"))
    with Client.connect(native.events, native.requests, timeout_s=60) as client:
        until_s = time.monotonic() + 60
        while not client.health().counters.get("requests_in_flight"):
            assert time.monotonic() < until_s
            time.sleep(0.1)
    for number in numbers:
        native.child.send_signal(signal.Signals[number])
        time.sleep(0.3)
    native.check()


def test_a_driver_at_work_does_not_abort_the_end(
    tmp_path: Path, work: Path, natives: list[Native]
) -> None:
    natives.append(Native(tmp_path, work, "reader", 12, *NO_CAMERA, "--duration", 1))
    natives[0].check(code=2)  # no frame came


def test_a_program_that_runs_a_node_waits_for_what_it_left_behind(
    tmp_path: Path, work: Path, demo: tuple[object, ...], natives: list[Native]
) -> None:
    options = ("segmenter.model=scripted", "segmenter.everything=true")
    clip = (f"source.uri={demo[1]}", "source.loop=true")
    natives.append(Native(tmp_path, work, "library", 6, *options, *clip))
    natives[0].check()


def test_a_run_of_onnx_runtime_is_ended_from_outside(tmp_path: Path) -> None:
    session = open_session(graph(tmp_path / "long.onnx", side=512, count=4000), threads=1)
    options, failed = make_run_options(), []

    def compute() -> None:
        try:
            session.run(None, {"x": np.zeros((512, 512), np.float32)}, options)
        except Exception as error:  # noqa: BLE001  (the package's own types)
            failed.append(str(error))

    thread = NativeThread(target=compute, name="long")
    thread.start()
    assert not thread.end(0.5)
    assert running() == ["long"]
    options.terminate = True
    thread.join(10)
    assert not thread.is_alive()
    assert "terminate" in failed[0]
    assert thread.end(0)


def test_a_source_that_does_not_return_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source_thread, "_JOIN_S", 0.1)
    release = threading.Event()

    class Hanging:
        is_lossless = False

        def frames(self) -> Iterator[Frame]:
            release.wait(30)
            return iter(())

    counters = NodeCounters()
    health_monitor = HealthMonitor(counters, ScriptedEngine().info, MonotonicClock(), dict)
    fed = SourceThread(
        [Hanging()], Mailbox(counters, max_streams=1), {}, health_monitor, threading.Event()
    )
    fed.start()
    began_s = time.monotonic()
    fed.join()
    assert time.monotonic() - began_s < 5
    assert running() == ["ureca-source"]
    release.set()
    assert fed.ended.wait(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_is_a_node_ends_the_command(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def interrupted() -> None:
        with Signals():
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(SystemExit) as stop:
        interrupted()
    assert stop.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_only_native_threads_are_daemons(repository: Path) -> None:
    """Any other daemon thread could come back while the interpreter is finalised."""
    found = []
    for package in ("ureca", "node", "models", "export"):
        found += [
            path.relative_to(repository).as_posix()
            for path in (repository / package).rglob("*.py")
            if any(is_daemon(part) for part in ast.walk(ast.parse(path.read_text())))
        ]
    assert found == ["ureca/native_threads.py"]


def is_daemon(part: ast.AST) -> bool:
    """`daemon=True` in a call, or `thread.daemon = True`."""
    if isinstance(part, ast.Attribute):
        return part.attr == "daemon" and isinstance(part.ctx, ast.Store)
    return isinstance(part, ast.keyword) and part.arg == "daemon"
