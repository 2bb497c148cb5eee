from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

AT_MOST = {"FILE_LIMIT": 500, "FUNCTION_LIMIT": 80, "FOLDER_LIMIT": 20}
"""These may only be lowered. `FOLDER_LIMIT`: files in one folder; tests are exempt."""


def test_no_file_and_no_function_is_past_the_hard_limits(repository):
    done = subprocess.run(
        [sys.executable, "tools/sizes.py"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def sizes(repository, monkeypatch):
    """`tools/sizes.py` as a module, looking at this repository."""
    spec = importlib.util.spec_from_file_location("sizes", repository / "tools" / "sizes.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sizes", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_limits_only_tighten(sizes):
    assert {name: value for name, value in AT_MOST.items() if getattr(sizes, name) > value} == {}
    assert set(sizes.PACKAGES) >= {"ureca", "models", "node", "export", "tests", "tools"}


def test_a_folder_with_too_many_files_is_noticed(sizes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sizes, "ROOT", tmp_path)
    for package in sizes.PACKAGES:
        (tmp_path / package / "full").mkdir(parents=True)
    for number in range(AT_MOST["FOLDER_LIMIT"] + 1):
        (tmp_path / "tests" / "full" / f"{number}.py").touch()
    assert sizes.main() == 0
    for number in range(AT_MOST["FOLDER_LIMIT"] + 1):
        (tmp_path / "node" / "full" / f"{number}.py").touch()
    assert sizes.main() == 1
    assert "node/full/: 21 files > 20" in capsys.readouterr().err
