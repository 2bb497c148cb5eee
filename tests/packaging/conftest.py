"""Both wheels, built from copies of the checkout, so that no build folder is left in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.once import build_once

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {
    "ureca": (
        "ureca",
        "models",
        "node",
        "export",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
    ),
    "weights": ("packaging/ureca-nano", "models/pretrained", "configs/demo", "LICENSE", "NOTICE"),
}
PROJECTS = {"ureca": ".", "weights": "packaging/ureca-nano"}


def _copy(name: str, folder: Path) -> None:
    for item in NEEDED[name]:
        source, target = ROOT / item, folder / item
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            leave = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "checkpoint")
            shutil.copytree(source, target, symlinks=True, ignore=leave)
        else:
            shutil.copy(source, target)


def build_wheel(name: str, folder: Path, *, umask: int = 0o022) -> Path:
    """The wheel of one of `PROJECTS`, built in `folder` from a copy whose files are all new."""
    _copy(name, folder)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    done = subprocess.run(
        [*command, str(folder / "dist"), PROJECTS[name]],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        check=False,
        umask=umask,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return wheel_in(folder)


def wheel_in(folder: Path) -> Path:
    (path,) = (folder / "dist").glob("*.whl")
    return path


def _wheel_once(tmp_path_factory, name: str) -> Path:
    pytest.importorskip("build")
    build = partial(build_wheel, name)
    return wheel_in(build_once(tmp_path_factory, f"{name}-source", build))


@pytest.fixture(scope="session")
def ureca_wheel(tmp_path_factory):
    return _wheel_once(tmp_path_factory, "ureca")


@pytest.fixture(scope="session")
def weights_wheel(tmp_path_factory):
    if not (ROOT / "models" / "pretrained" / "ureca-nano" / "manifest.json").is_file():
        pytest.skip("not proven: no shipped weights in this checkout")
    return _wheel_once(tmp_path_factory, "weights")
