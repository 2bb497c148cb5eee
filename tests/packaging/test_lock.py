"""The lock files say what pyproject asks for, for every Python, and nothing about this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
EXTRAS = {"client": (), "node": ("node",)}


def _locked(repository, name):
    """Requirements of a lock file, each with its hashes."""
    text = (repository / "packaging" / "lock" / f"{name}.txt").read_text()
    entries = text.replace("\\\n", " ").splitlines()
    return [(Requirement(e.partition(" --hash=")[0]), e.split(" --hash=")[1:]) for e in entries]


def _wanted(repository, extras):
    """What pyproject.toml asks for."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    texts = project["dependencies"] + [text for extra in extras for text in optional[extra]]
    return [Requirement(text) for text in texts]


def _extras(repository, name):
    """The extras that a lock file holds; those of the tests stand in the Makefile."""
    if name != "dev":
        return EXTRAS[name]
    makefile = (repository / "Makefile").read_text()
    return re.search(r"^EXTRAS := (\S+)$", makefile, re.MULTILINE)[1].split(",")


def _unmet(repository, name, versions):
    """Needs of pyproject.toml that a lock file does not meet; torch is pinned in the Makefile."""
    return [
        str(need)
        for need in _wanted(repository, _extras(repository, name))
        if need.name != "torch"
        and not need.specifier.contains(versions.get(canonicalize_name(need.name), "0"))
    ]


def _environment(python, machine="x86_64"):
    return default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.2",
        "platform_machine": machine,
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }


def _versions(locked, environment):
    found = {}
    for requirement, _hashes in locked:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            assert requirement.name not in found, f"{requirement.name} is locked twice"
            found[canonicalize_name(requirement.name)] = pin.version
    return found


@pytest.mark.parametrize("name", [*EXTRAS, "dev"])
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_pyproject_asks_for_is_locked(repository, name, python, machine):
    versions = _versions(_locked(repository, name), _environment(python, machine))
    assert _unmet(repository, name, versions) == [], "run: make lock"


@pytest.mark.parametrize("name", [*EXTRAS, "dev"])
def test_what_the_locked_packages_need_is_locked_too(repository, name):
    environment = _environment(f"{sys.version_info.major}.{sys.version_info.minor}")
    versions = _versions(_locked(repository, name), environment)
    versions |= {"torch": _torch(repository)} if name == "dev" else {}
    looked_into, unmet = 0, []
    for package, version in versions.items():
        if _installed(package) != version:
            continue  # not here, or another version: its needs are not known
        looked_into += 1
        for need in map(Requirement, metadata.requires(package) or []):
            if need.marker is None or need.marker.evaluate(environment):
                have = versions.get(canonicalize_name(need.name), "0")
                unmet += [] if need.specifier.contains(have, prereleases=True) else [str(need)]
    if not looked_into:
        pytest.skip("not proven: no locked version is installed here")
    assert unmet == []


def _installed(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch(repository):
    makefile = (repository / "Makefile").read_text()
    return re.search(r"^TORCH := torch==(\S+)$", makefile, re.MULTILINE)[1]


def test_torch_is_pinned_as_pyproject_says_and_is_not_in_the_lock(repository):
    """Its CPU wheel has another hash than the index's, so a locked hash would bring CUDA."""
    needs = [n for n in _wanted(repository, _extras(repository, "dev")) if n.name == "torch"]
    assert needs
    assert {str(need.specifier) for need in needs} == {f"=={_torch(repository)}"}
    names = {canonicalize_name(need.name) for need, _hashes in _locked(repository, "dev")}
    left_out = (repository / "packaging" / "lock" / "torch-cuda.txt").read_text()
    cuda = {line for line in left_out.splitlines() if line and not line.startswith("#")}
    assert not names & (cuda | {"torch"})
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]


@pytest.mark.parametrize("name", [*EXTRAS, "dev", "build"])
def test_every_entry_has_hashes_and_no_place(repository, name):
    for requirement, hashes in _locked(repository, name):
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", text) for text in hashes)
        assert requirement.url is None
    text = (repository / "packaging" / "lock" / f"{name}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--(?!hash=))", text, re.MULTILINE)


def test_a_package_of_another_version_than_locked_is_named(tmp_path):
    (version,) = {metadata.version("numpy")}
    lock = tmp_path / "lock.txt"
    lock.write_text(
        f"numpy==0.1 \\\n    --hash=sha256:{'0' * 64}\nnot-here==1.0 ; python_version < '3'\n"
    )
    tool = [sys.executable, "tools/changed_packages.py", str(lock)]
    said = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    assert f"  numpy: 0.1 -> {version}\n" in said
    assert "not-here" not in said
