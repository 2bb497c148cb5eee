"""Whether the other files of this folder proved anything: the extra `mllm` is there, and whole."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest
from packaging.requirements import Requirement


def test_the_extra_is_installed_as_the_project_asks_for_it(repository):
    """Half an extra is an error: the other files would be left out, and nobody would notice."""
    tomllib = pytest.importorskip("tomllib")
    if all(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        pytest.skip("the extra `mllm` is not installed: nothing of ureca-mllm is proven")
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    needs = [Requirement(text) for text in project["optional-dependencies"]["mllm"]]
    unmet = [str(need) for need in needs if not need.specifier.contains(_version(need.name))]
    assert not unmet, "run: pip install 'ureca[mllm]'"


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"
