"""Camera processes that are killed: with credits in hand, and with pixels in shared memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.inputs_rig import rig, until
from ureca.protocol.event_table import event_kind
from ureca.protocol.shared_memory import PREFIX, SHARED_FOLDER

ROOT = Path(__file__).resolve().parents[2]
CAMERA = """
import sys, time
from tests.node.inputs_rig import BOX, picture
from ureca.client.frame_publisher import FrameDealer, FramePublisher
kind, address, shm = sys.argv[1:]
make = FrameDealer if kind == "credit" else FramePublisher
with make(address, shm=shm == "shm") as camera:
    number = 0
    while True:
        camera.send(picture(number), regions=[BOX])
        number += 1
        time.sleep(0.02)
"""


@pytest.fixture
def start() -> Iterator[object]:
    children: list[subprocess.Popen[bytes]] = []

    def camera(kind: str, address: str, pixels: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", CAMERA, kind, address, pixels],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        children.append(child)
        return child

    yield camera
    for child in children:
        child.kill()
        child.wait()


def rings(pid: int) -> list[str]:
    return [p.name for p in SHARED_FOLDER.iterdir() if p.name.startswith(f"{PREFIX}{pid}-")]


@contextlib.contextmanager
def left_alone(pid: int) -> Iterator[Callable[[], None]]:
    """After the call that it gives, the rings of a dead process are locked: whoever opens a ring
    anywhere on this machine, such as a test beside this one, would remove them.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((SHARED_FOLDER / name).open("rb")) for name in rings(pid)]

        def lock() -> None:
            for file in files:
                fcntl.flock(file, fcntl.LOCK_EX)

        yield lock


@pytest.mark.parametrize("pixels", ["raw", "shm"])
@pytest.mark.parametrize("kind", ["zmq", "credit"])
def test_a_camera_that_is_killed_and_started_again(
    tmp_path: Path, start: object, kind: str, pixels: str
) -> None:
    address = f"ipc://{tmp_path}/frames"
    with rig(tmp_path, f"{kind}+{address}", prompts={}, silent_s=0.5) as node:
        first = start(kind, address, pixels)  # type: ignore[operator]
        until(lambda: node.events.of("caption.final"), "a caption")
        assert len(rings(first.pid)) == (pixels == "shm")
        until(lambda: node.reason() == "", "well")
        with left_alone(first.pid) as kept:
            first.kill()
            first.wait()
            kept()
            until(lambda: "no frame for" in node.reason(), "health names the silent link")
            assert len(rings(first.pid)) == (pixels == "shm"), "kill -9 leaves the ring behind"
        second = start(kind, address, pixels)  # type: ignore[operator]
        node.goes_on()
        until(lambda: node.reason() == "", "well again")
        assert not rings(first.pid), "who comes later removes it"
        told = node.events.of("track.new", "track.end")
        assert [(event.rid, event_kind(event)) for event in told] == [
            ("thing", "track.new"),
            ("thing", "track.end"),
            ("thing-2", "track.new"),
        ]
        until(lambda: len(node.events.of("caption.final")) >= 2, "both are captioned")
        second.kill()
        second.wait()
    assert not rings(second.pid), "the node removes what is left at its end"
