"""`ureca camera` as a process, and its parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.node.inputs_rig import MjpegServer, Rig, picture, rig
from ureca import cli
from ureca.clock import MonotonicClock
from ureca.datatypes import Frame
from ureca.node.cli.camera import FrameRateLimit, jpeg_encoder, main
from ureca.node.config import NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.factory import open_source

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    for number in range(20):
        cv2.imwrite(
            str(made / f"{number:03}.png"), np.ascontiguousarray(picture(number)[..., ::-1])
        )
    return made


class Sending:
    """A running `ureca camera`."""

    def __init__(self, *options: object) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "ureca", "camera", *map(str, options)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def end(self, number: signal.Signals = signal.SIGINT) -> str:
        self.child.send_signal(number)
        _, err = self.child.communicate(timeout=60)
        assert "Traceback" not in err, err
        return err


@pytest.fixture
def sending() -> Iterator[list[Sending]]:
    started: list[Sending] = []
    yield started
    for each in started:
        if each.child.poll() is None:
            each.child.kill()
        each.child.communicate()


def stamps(node: Rig) -> set[str]:
    return {event.capture_source for event in node.events.of("caption.final")}  # type: ignore[union-attr]


@pytest.mark.parametrize("how", [["--jpeg", 95], ["--raw"], ["--shm"]])
@pytest.mark.parametrize("link", ["zmq", "credit"])
def test_a_folder_reaches_a_node(
    tmp_path: Path, folder: Path, sending: list[Sending], how: list[object], link: str
) -> None:
    address = f"ipc://{tmp_path}/frames"
    where = ["--bind" if link == "zmq" else "--to", address]
    with rig(tmp_path, f"{link}+{address}", max_age_ms=20_000) as node:
        camera = Sending(folder, "--fps", 20, "--loop", *where, *how)
        sending.append(camera)
        node.goes_on(30)
        err = camera.end()
        assert camera.child.returncode == 0, err
        assert "sent " in err
        assert not set(node.dropped) - {"superseded", "link_gap"}


def test_what_a_network_camera_sends_goes_on_with_its_stamps(
    tmp_path: Path, sending: list[Sending]
) -> None:
    address = f"ipc://{tmp_path}/frames"
    with MjpegServer() as server, rig(tmp_path, f"zmq+{address}") as node:
        camera = Sending(f"http://{server.address}/mjpg", "--bind", address, "--stream", "door")
        sending.append(camera)
        node.goes_on(20)
        assert list(node.node.heartbeat().streams) == ["door"]
        camera.end(signal.SIGTERM)
        assert camera.child.returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere.mp4"], "no such video"),
        (["zmq+tcp://127.0.0.1:1"], "frames already"),
        (["x.mp4", "--jpeg", "0"], "1 to 100"),
        (["{folder}", "--bind", "tcp://0.0.0.0:5600"], "CURVE"),
        (["{folder}", "--bind", "nonsense"], "nonsense"),
        (["{folder}", "--allow", "list.txt"], "--key and --allow"),
    ],
)
def test_what_cannot_be_sent_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    arguments = ["camera", *(option.format(folder=folder) for option in options)]
    assert cli.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "ureca run --source credit+tcp://127.0.0.1:5603" in text
    assert "ureca camera" in cli.usage()


def test_a_live_source_is_thinned_to_a_rate() -> None:
    pace = FrameRateLimit(10.0)
    kept = [n for n in range(90) if not pace.is_early(n * 1_000_000_000 // 30)]
    assert kept == list(range(0, 90, 3))
    assert not any(FrameRateLimit(0.0).is_early(n) for n in range(3))


def test_jpeg_quality_is_what_was_asked_for() -> None:
    small, large = (jpeg_encoder(quality)(picture(0)) for quality in (20, 95))
    assert len(small) * 2 < len(large)
    back = cv2.imdecode(np.frombuffer(large, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - picture(0)).mean() < 8, "RGB and BGR are not confused"


def test_stamps_and_numbers_of_the_source_are_kept(folder: Path) -> None:
    """What is sent is the source's own frame: its stamp, its number, how honest they are."""
    config = replace(NodeConfig(), source=SourceConfig(uri=str(folder), fps=200))
    source = open_source(
        config, clock=MonotonicClock(), counters=NodeCounters(), wait=lambda _: False
    )
    frames: list[Frame] = list(source.frames())
    assert [frame.seq for frame in frames] == list(range(20))
    assert {frame.capture_source for frame in frames} == {"decoder"}
