"""What is in the two wheels, how large they are, and that they are the same bytes every time."""

from __future__ import annotations

import email
import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

from tests.packaging.conftest import build_wheel
from ureca import __version__

MEGABYTE = 1_000_000


@pytest.fixture
def wheel(ureca_wheel):
    with zipfile.ZipFile(ureca_wheel) as archive:
        yield archive


@pytest.fixture
def weights(weights_wheel):
    with zipfile.ZipFile(weights_wheel) as archive:
        yield archive


def _metadata(archive):
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(archive.read(name))


def test_the_only_top_level_name_is_ureca(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"ureca", f"ureca-{__version__}.dist-info"}


def test_rooms_are_real_files_and_complete(wheel, repository):
    assert not any(stat.S_ISLNK(info.external_attr >> 16) for info in wheel.infolist())
    names = set(wheel.namelist())
    for package in ("models", "node", "export"):
        files = [
            path
            for path in (repository / package).rglob("*.py")
            if not {"__pycache__", "synthetic"} & set(path.parts)
        ]
        missing = [
            p
            for p in files
            if f"ureca/{package}/{p.relative_to(repository / package)}" not in names
        ]
        assert not missing
    assert "ureca/py.typed" in names
    assert "ureca/models/evaluation/reports/report.html.j2" in names


def test_the_rendering_of_worlds_stays_in_the_checkout(wheel, repository, tmp_path):
    assert (repository / "models/data/synthetic/cli.py").is_file()
    assert not [name for name in wheel.namelist() if "synthetic" in name]
    wheel.extractall(tmp_path)
    code = "import sys; from ureca import cli; sys.exit(cli.main(['worlds', 'make', '-o', 'w']))"
    done = _python(code, tmp_path)
    assert done.returncode == 2
    assert "ureca.models.data.synthetic" in done.stderr
    assert "checkout" in done.stderr
    code = "from pathlib import Path; from ureca.models.evaluation.measures.scenes import *; "
    done = _python(code + "read_views([], [])", tmp_path)
    assert "MissingExtraError: ureca.models.data.synthetic" in done.stderr


def _python(code, folder):
    return subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_client_carries_less_than_5_megabytes(wheel, ureca_wheel):
    assert not any("models/pretrained/" in name for name in wheel.namelist())
    assert ureca_wheel.stat().st_size < 5 * MEGABYTE
    assert sum(info.file_size for info in wheel.infolist()) < 5 * MEGABYTE


def test_the_weights_are_what_the_node_opens_and_no_more(weights, weights_wheel, repository):
    prefix = "ureca_nano_weights/bundle/"
    held = {n.removeprefix(prefix) for n in weights.namelist() if n.startswith(prefix)}
    manifest = json.loads(weights.read(prefix + "manifest.json"))
    files = [*manifest["graphs"].values(), manifest["embeddings"], manifest["tokenizer"]]
    files += [*manifest["extra_files"], manifest["grounding"]["arrays"]]
    files.append(manifest["attributes"]["arrays"])
    files += manifest["mask_head"]["graphs"].values()
    listed = {spec["file"]: spec["sha256"] for spec in files}
    assert held - {"manifest.json"} == set(listed)
    for name, sha256 in listed.items():
        assert hashlib.sha256(weights.read(prefix + name)).hexdigest() == sha256
    others = [n for n in weights.namelist() if "/bundle/" not in n and "dist-info" not in n]
    demo = ["ureca_nano_weights/demo/prompts.json", "ureca_nano_weights/demo/tabletop.mp4"]
    assert sorted(others) == ["ureca_nano_weights/__init__.py", *demo]
    assert weights_wheel.stat().st_size < 33 * MEGABYTE  # 7 MB of it score texts, 3 make masks
    assert not any(stat.S_ISLNK(info.external_attr >> 16) for info in weights.infolist())


def test_the_extra_takes_the_weights_that_lie_here(wheel, weights):
    needs = [Requirement(text) for text in _metadata(wheel).get_all("Requires-Dist")]
    (need,) = (need for need in needs if need.name == "ureca-nano-weights")
    assert str(need.marker) == 'extra == "nano"'
    assert _metadata(weights)["Name"] == need.name
    assert need.specifier.contains(_metadata(weights)["Version"])


@pytest.mark.parametrize("name", ["ureca", "weights"])
def test_another_build_has_the_same_bytes(name, request, tmp_path):
    first = request.getfixturevalue(f"{name}_wheel")
    second = build_wheel(name, tmp_path)
    assert second.name == first.name
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
    assert digests[0] == digests[1]


def test_metadata_promises_a_light_base_and_a_node_without_torch(wheel):
    metadata = _metadata(wheel)
    assert metadata["Version"] == __version__
    needs = metadata.get_all("Requires-Dist")
    base = {need.split(">")[0] for need in needs if "extra ==" not in need}
    assert base == {"numpy", "msgpack", "msgspec", "pyzmq", "pyyaml", "argcomplete"}
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
    done = _python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
