from __future__ import annotations

import email
import os
import shutil
import stat
import subprocess
import sys
import zipfile

import pytest

SOURCES = ("ureca", "models", "node", "export")


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """Built from a copy, so that no build folder is left in the checkout."""
    pytest.importorskip("build")
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(
            repository / name,
            copy / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, copy / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    (path,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_only_top_level_name_is_ureca(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"ureca", "ureca-0.1.0.dist-info"}


def test_rooms_are_real_files_and_complete(wheel, repository):
    assert not any(stat.S_ISLNK(info.external_attr >> 16) for info in wheel.infolist())
    names = set(wheel.namelist())
    for room in ("models", "node", "export"):
        files = [
            path for path in (repository / room).rglob("*.py") if "__pycache__" not in path.parts
        ]
        missing = [
            p for p in files if f"ureca/{room}/{p.relative_to(repository / room)}" not in names
        ]
        assert not missing
    assert "ureca/py.typed" in names


def test_shipped_weights_are_in_the_wheel(wheel, repository):
    shipped = repository / "models" / "pretrained"
    if not shipped.is_dir():
        pytest.skip("no shipped weights in this checkout")
    names = set(wheel.namelist())
    for path in (p for p in shipped.rglob("*") if p.is_file()):
        assert f"ureca/models/pretrained/{path.relative_to(shipped)}" in names


def test_metadata_promises_a_light_base_and_a_node_without_torch(wheel):
    metadata = email.message_from_bytes(wheel.read("ureca-0.1.0.dist-info/METADATA"))
    needs = metadata.get_all("Requires-Dist")
    base = {need.split(">")[0] for need in needs if "extra ==" not in need}
    assert base == {"numpy", "msgpack", "msgspec", "pyzmq", "pyyaml"}
    node = [need for need in needs if 'extra == "node"' in need]
    assert node
    assert not any(need.startswith("torch") for need in node)
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_installed_package_imports_from_real_files(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = (
        "import pathlib, importlib.util, ureca, ureca.node, ureca.models.config, ureca.export\n"
        "assert not pathlib.Path(ureca.node.__file__).parent.is_symlink()\n"
        "bare = [importlib.util.find_spec(name) for name in ('node', 'models', 'export')]\n"
        "assert bare == [None, None, None], bare\n"
        "print(ureca.node.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
