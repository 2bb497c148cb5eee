"""What goes wrong at the start is one line with the remedy, and exit 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ureca.node.captioning.engine_loader import SHIPPED_BUNDLE


def node(repository: Path, *options: object, scripted: bool = False) -> tuple[int, str]:
    """Exit code and complaints of a node on free ports, which leaves those of other nodes alone."""
    anywhere = [f"--set=publish.{plane}=tcp://127.0.0.1:*" for plane in ("events", "requests")]
    if scripted:
        code = (
            "import sys; from ureca.cli import guarded; import ureca.node.cli.run as m; "
            "from ureca.testing import ScriptedEngine; "
            "m.main.__kwdefaults__['engine_of'] = lambda folder: ScriptedEngine(); "
            "sys.exit(guarded('ureca.node.cli.run', sys.argv[1:]))"
        )
        command = [sys.executable, "-c", code]
    else:
        command = [sys.executable, "run_node.py"]
    done = subprocess.run(
        [*command, *anywhere, *map(str, options)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, done.stderr


def assert_instructs(result: tuple[int, str], *words: str) -> None:
    code, err = result
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


def test_an_unreadable_video(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 64)
    result = node(repository, "--source", tmp_path / "noise.mp4", scripted=True)
    assert_instructs(result, "SourceError", "noise.mp4", "convert")


def test_a_missing_video(repository: Path, tmp_path: Path) -> None:
    assert_instructs(node(repository, "--source", tmp_path / "no.mp4", scripted=True), "no.mp4")


def test_a_missing_bundle(repository: Path, tmp_path: Path) -> None:
    assert_instructs(node(repository, "--bundle", tmp_path / "nothing"), "BundleError", "nothing")


def test_an_altered_bundle(repository: Path, tmp_path: Path) -> None:
    if not (SHIPPED_BUNDLE / "manifest.json").is_file():
        pytest.skip(f"no shipped bundle at {SHIPPED_BUNDLE}")
    altered = tmp_path / "bundle"
    shutil.copytree(SHIPPED_BUNDLE, altered)
    graph = max(altered.glob("*.onnx"), key=lambda path: path.stat().st_size)
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    assert_instructs(node(repository, "--bundle", altered), "BundleError", graph.name)


def test_a_wrong_option_names_the_nearest(repository: Path) -> None:
    assert_instructs(node(repository, "--set", "scheduler.max_bach=3"), "max_batch")


def test_a_network_bind_is_refused(repository: Path) -> None:
    result = node(repository, "--set", "publish.events=tcp://0.0.0.0:5601")
    assert_instructs(result, "loopback")


def test_bad_prompts_name_the_entry(repository: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text('[{"frame": 0, "box": [9, 9, 1, 1]}]')
    assert_instructs(node(repository, "--prompts", prompts), "entry 0")
