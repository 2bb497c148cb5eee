"""Nothing that we build upon reports to its maker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

SUPPRESSORS = ("ORT_", "CI", "TF_BUILD", "GITHUB_", "GITLAB_", "JENKINS_", "BUILD_")
"""Variables under which ONNX Runtime is silent by itself, by their beginnings."""


def test_captioning_reports_nothing_to_the_maker_of_onnx_runtime(repository, tmp_path):
    pytest.importorskip("onnxruntime", reason="captioning needs the extra `node`")
    bundle = repository / "models" / "pretrained" / "ureca-nano"
    if not (bundle / "manifest.json").is_file():
        pytest.skip("not proven: no shipped weights in this checkout")
    home, frames = tmp_path / "home", tmp_path / "frames"
    home.mkdir()
    frames.mkdir()
    shutil.copy(bundle / "golden.png", frames / "0.png")
    usual = {name: value for name, value in os.environ.items() if not name.startswith(SUPPRESSORS)}
    homes = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, str(repository / "run_node.py"), "--bundle", str(bundle)]
    command += ["--source", str(frames), "--box", "20,20,120,120"]
    for plane in ("events", "requests"):
        command += ["--set", f"publish.{plane}=ipc://{tmp_path}/{plane}"]
    done = subprocess.run(
        command, cwd=home, env={**usual, **homes}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 final" in done.stdout
    # What ONNX Runtime is going to send, and the device's identifier, it first writes down.
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []
