"""The files around the code: they can be read, and name the same versions as `pyproject.toml`."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
import yaml

from ureca import __version__

YAML_FILES = (".pre-commit-config.yaml", ".github/workflows/ci.yml")
MINOR = re.compile(r"3\.(\d+)")


@pytest.fixture
def project(repository):
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture
def workflow(repository):
    return yaml.safe_load((repository / ".github/workflows/ci.yml").read_text("utf-8"))


def _classified(project):
    prefix = "Programming Language :: Python :: 3."
    found = [text for text in project["classifiers"] if text.startswith(prefix)]
    return {text.rpartition(" ")[2] for text in found}


@pytest.mark.parametrize("name", YAML_FILES)
def test_yaml_files_can_be_read(repository, name):
    assert isinstance(yaml.safe_load((repository / name).read_text("utf-8")), dict)


def test_ci_tries_every_python_from_the_oldest_on(project, workflow):
    job = workflow["jobs"]["test"]
    pythons = job["strategy"]["matrix"]["python"]
    minors = [int(MINOR.fullmatch(python)[1]) for python in pythons]
    assert project["requires-python"] == f">={pythons[0]}"
    assert all(after == before + 1 for before, after in pairwise(minors))
    assert _classified(project) <= set(pythons)
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_only_pythons_that_were_really_run_are_classified(repository, project):
    for name, said in (
        ("CONTRIBUTING.md", r"tests\s+were\s+run\s+with\s+Python\s+([\d., ]+)\."),
        (".github/workflows/ci.yml", r"Really run so far: ([\d., ]+), outside"),
    ):
        (pythons,) = re.findall(said, (repository / name).read_text("utf-8"))
        assert set(pythons.split(", ")) == _classified(project), name


def test_hooks_need_no_foreign_repository(repository):
    config = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text("utf-8"))
    assert {repo["repo"] for repo in config["repos"]} == {"local"}


def test_the_dev_container_takes_the_environment_of_make(repository):
    config = json.loads((repository / ".devcontainer/devcontainer.json").read_text("utf-8"))
    target = config["postCreateCommand"].removeprefix("make ")
    assert f"\n{target}:" in (repository / "Makefile").read_text("utf-8").replace(
        "$(DEV)", ".venv-dev"
    )


def test_the_changelog_knows_this_version_and_its_day(repository):
    text = (repository / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", text, re.MULTILINE)
    assert releases[0] == ("Unreleased", "")
    assert releases[1][0] == __version__
    assert all(day for _, day in releases[1:])
