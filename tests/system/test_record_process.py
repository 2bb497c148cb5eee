"""`ureca run --record` as a process: finished, and killed without warning."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ureca.node.recording.cli import main
from ureca.node.recording.lossless_images import to_png
from ureca.testing import ScriptedEngine, SyntheticSource

HERE = Path(__file__).parent


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, Path]:
    source = SyntheticSource(frames=30, width_px=320, height_px=240)
    folder, prompts = tmp_path / "clip", tmp_path / "prompts.json"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 30, (240, 320, 3), np.uint8)
    for frame in source:
        (folder / f"{frame.seq:03}.png").write_bytes(to_png(frame.image // 2 + noise))
    boxes = source.boxes_xyxy_px(0).items()
    prompts.write_text(json.dumps([{"frame": 0, "rid": name, "box": box} for name, box in boxes]))
    return folder, prompts


def started(tmp: Path, clip: tuple[Path, Path], *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, HERE / "scripted_node.py", "--source", clip[0], "--prompts", clip[1]]
    for plane in ("events", "requests"):
        command += ["--set", f"publish.{plane}=ipc://{tmp}/{plane}"]
    return subprocess.Popen(
        [str(part) for part in (*command, "--record", tmp / "run.mcap", *options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )


def replayed(tmp: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    code = main([str(tmp / "run.mcap")], engine_of=lambda folder: ScriptedEngine())
    out = capsys.readouterr().out
    assert code == 0, out
    return dict(json.loads(out.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.timeout(300)  # two processes, maybe beside much else
def test_a_finished_recording_replays(
    tmp_path: Path, clip: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    node = started(tmp_path, clip, "--no-realtime")
    out, _ = node.communicate(timeout=100)
    assert node.returncode == 0, out
    report = replayed(tmp_path, capsys)
    assert report["frames"] == 30
    assert report["cut"] is None
    assert report["captions"]


@pytest.mark.slow
@pytest.mark.timeout(300)  # two processes, maybe beside much else
def test_a_killed_node_leaves_a_recording_that_replays(
    tmp_path: Path, clip: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    node = started(tmp_path, clip, "--loop", "--fps", "60", "--quiet")
    file, until = tmp_path / "run.mcap", time.monotonic() + 90
    while not (file.is_file() and file.stat().st_size > 600_000) and time.monotonic() < until:
        assert node.poll() is None
        time.sleep(0.1)
    node.send_signal(signal.SIGKILL)
    node.communicate()
    report = replayed(tmp_path, capsys)
    assert "is cut" in report["cut"]
    assert report["frames"] > 0
