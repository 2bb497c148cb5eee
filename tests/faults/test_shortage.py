"""No descriptors, no memory, no disk, engines that leave: what it costs, and what never."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.test_node_sockets import Running, start, until_final  # noqa: F401  (a fixture)
from ureca.clock import ManualClock
from ureca.errors import BundleError, ConfigError, SourceError
from ureca.log import RateLimitedLog
from ureca.node.config import NodeConfig
from ureca.node.counters import NodeCounters
from ureca.node.decoding.decoder_process import DecodeGuard
from ureca.node.monitoring.run_report import EventFile
from ureca.node.sources.frame_receiver import FrameReceiver
from ureca.node.sources.prompt_file import load_prompts
from ureca.protocol.events import Heartbeat
from ureca.testing import ScriptedEngine, SyntheticSource

BEAT = Heartbeat(uptime_ms=1, state="running", counters={}, streams={}, model="none")


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    """The process may open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_decoder_that_cannot_be_started_costs_its_pictures(no_descriptors: None) -> None:
    guard = DecodeGuard(1 << 20)
    guard.prepare()
    for _ in range(3):
        with pytest.raises(SourceError):
            guard(b"\xff\xd8", max_px=1 << 20)
    guard.close()


def test_an_engine_that_leaves_its_thread_costs_a_batch(start) -> None:  # noqa: F811
    """`SystemExit` ends a thread without a word; who waits for it would wait for ever."""

    class Leaving(ScriptedEngine):
        left = 0

        def encode(self, image):
            if self.left < 2:
                self.left += 1
                raise SystemExit(3)
            return super().encode(image)

    running: Running = start(Leaving())
    with running.client() as client:
        until_final(client)
    errors = [one for one in running.capture.events if getattr(one, "code", "") == "ENGINE"]
    assert errors
    assert errors[0].msg.startswith("SystemExit")  # type: ignore[union-attr]


class NoMemory(FrameReceiver):
    """No memory for pixels."""

    def _pixels(self, data, header):
        raise MemoryError


def test_a_frame_without_memory_is_one_frame() -> None:
    from ureca.protocol import wire

    counters, clock = NodeCounters(), ManualClock(10**9)
    receiver = NoMemory(NodeConfig(), clock=clock, counters=counters, is_local=True)
    frame = SyntheticSource(width_px=16, height_px=12).frame(0)
    header = wire.FrameHeader.of(frame, "nv12")
    parts = wire.encode_frame(header, bytes(288), "camera")
    receiver.came(parts[0])
    assert receiver.frame(parts) is None
    receiver.lost()
    receiver.close()
    assert counters.balance().frames_dropped == {"internal": 2}
    assert counters.balance().closed


def test_events_on_a_full_disk_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    file = EventFile(Path("/dev/full"))
    with caplog.at_level(logging.ERROR):
        for _ in range(2000):  # more than its buffer holds
            file(BEAT)
        file.close()
    assert os.strerror(errno.ENOSPC) in file.reasons()[0]
    assert len(caplog.records) == 1


def test_a_fault_that_repeats_is_logged_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(10**9)
    limited = RateLimitedLog(logging.getLogger("ureca.test"), clock)
    with caplog.at_level(logging.INFO, logger="ureca.test"):
        for _ in range(1000):
            limited.warning("turn", "a turn failed", error=ValueError("x"))
            clock.advance(ms=10)
    assert len(caplog.records) == 2
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.records[0].exc_info is not None
    assert "499 more like it" in caplog.records[1].getMessage()


DEEP = b"[" * 100_000


def test_json_of_any_depth_is_a_typed_error(tmp_path: Path) -> None:
    from ureca.bundle import load_manifest

    (tmp_path / "manifest.json").write_bytes(DEEP)
    with pytest.raises(BundleError):
        load_manifest(tmp_path)
    (tmp_path / "prompts.json").write_bytes(DEEP)
    with pytest.raises(ConfigError):
        load_prompts(tmp_path / "prompts.json")


@pytest.fixture
def _hangups() -> Iterator[None]:
    """Children hear SIGHUP, though the tests may run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.usefixtures("_hangups")
def test_the_end_of_a_terminal_is_an_orderly_end(tmp_path: Path, number: int) -> None:
    script = Path(__file__).parents[1] / "system" / "scripted_node.py"
    events = f"ipc://{tmp_path}/events"
    child = subprocess.Popen(
        [
            sys.executable,
            script,
            "--source",
            f"zmq+ipc://{tmp_path}/frames",
            "--set",
            f"publish.events={events}",
            "--set",
            f"publish.requests=ipc://{tmp_path}/requests",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "events").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.5)  # it binds a moment before it takes signals
        child.send_signal(number)
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode in (0, 2), out  # 2: no frame came; a signal would be negative
    assert "every frame and caption is accounted for" in out
