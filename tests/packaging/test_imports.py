"""The import laws, as they hold at run time and as import-linter reads them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ureca import __version__, cli

CONTRACT = ("cli", "client", "protocol", "security")
HEAVY = ("torch", "onnx", "onnxruntime", "cv2", "tokenizers", "rich", "tensorrt", "scipy", "mujoco")

# Each module is imported in a fork that has loaded the base packages and nothing of ureca.
ALONE = """
import importlib, os, sys
import asyncio, msgpack, msgspec, numpy, yaml, zmq.asyncio
names, heavy = sys.argv[1].split(","), sys.argv[2].split(",")
for name in names:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
            loaded = [h for h in heavy if h in sys.modules]
            code = 0 if not loaded else print(name, "loads", loaded, flush=True) or 1
        except BaseException as error:
            print(name, repr(error), flush=True)
            code = 1
        os._exit(code)
    failed = os.waitpid(child, 0)[1]
    if failed:
        sys.exit(1)
"""

WITHOUT_TORCH = """
import importlib, sys
for name in ("torch", "onnx", "safetensors"):
    sys.modules[name] = None
for name in sys.argv[1].split(","):
    importlib.import_module(name)
"""


def _python(repository, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _modules(folder: Path, package: str) -> list[str]:
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        names.append(".".join([package, *(part for part in parts if part != "__init__")]))
    return names


def _contract(repository) -> list[str]:
    folder = repository / "ureca"
    paths = sorted(path for path in folder.glob("*.py") if not path.stem.startswith("__"))
    names = [f"ureca.{path.stem}" for path in paths]
    for package in CONTRACT:
        names += _modules(folder / package, f"ureca.{package}")
    return names


def test_every_contract_module_imports_alone_and_light(repository):
    _python(repository, ALONE, ",".join(["ureca", *_contract(repository)]), ",".join(HEAVY))


def test_the_node_and_its_runtime_import_without_torch(repository):
    pytest.importorskip("cv2")
    pytest.importorskip("onnxruntime")
    names = [
        *_modules(repository / "node", "ureca.node"),
        *_modules(repository / "models" / "runtime", "ureca.models.runtime"),
        "ureca.models.config",
        "ureca.models.preprocess",
        "ureca.models.tokenizer",
    ]
    names.remove("ureca.models.runtime.eager")  # the torch reference engine, loaded by name only
    _python(repository, WITHOUT_TORCH, ",".join(names))


def test_links_are_links(repository):
    for package in ("models", "node", "export"):
        link = repository / "ureca" / package
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{package}"


def test_import_linter_keeps_the_laws(repository):
    tool = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run(
        [tool],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_law_of_the_contract_covers_every_module_of_it(repository):
    text = (repository / "pyproject.toml").read_text()
    start = text.index('name = "The contract is light')
    listed = text[start : text.index("]", text.index("source_modules", start))]
    tops = {".".join(name.split(".")[:2]) for name in _contract(repository)}
    assert [name for name in sorted(tops) if f'"{name}"' not in listed] == []
    folders = {path.parent.name for path in (repository / "ureca").glob("*/__init__.py")}
    assert folders == {*CONTRACT, "bridges", "visualization", "node", "models", "export"}


def test_one_version(repository):
    text = (repository / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text
    assert 'version = { attr = "ureca.__version__" }' in text
    assert '\nversion = "' not in text
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_module(name):
    assert importlib.util.find_spec(cli.COMMANDS[name].module) is not None
