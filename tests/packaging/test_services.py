"""Dockerfiles and the systemd unit, as far as they can be judged without running them."""

from __future__ import annotations

import argparse
import configparser
import re
import shlex
import shutil
import subprocess

import pytest

from ureca import cli

DOCKERFILES = ("cpu", "cuda", "jetpack6", "jetpack7")


def _instructions(repository, name):
    """(instruction, rest) with continued lines joined and comments dropped."""
    text = (repository / "packaging" / "docker" / f"{name}.Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_as_nobody_and_asks_the_node_for_its_health(repository, name):
    found = _instructions(repository, name)
    last = len(found) - [word for word, _ in reversed(found)].index("FROM") - 1
    final = dict(found[last:])
    assert final["USER"] == "10001"
    assert re.search(r"ureca health .*\|\| exit 1", final["HEALTHCHECK"])
    assert final["ENTRYPOINT"] == '["ureca", "run"]'
    assert not any(
        word in {"ENV", "ARG"} and re.search("KEY|TOKEN|SECRET", rest) for word, rest in found
    )


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_an_image_copies_is_let_in(repository, name):
    ignored = (repository / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copies = [rest.split() for word, rest in _instructions(repository, name) if word == "COPY"]
    sources = {words[0] for words in copies if not words[0].startswith("--from")} - {"."}
    assert sources <= allowed
    assert all((repository / path).exists() for path in allowed)
    # The projects that are built name nothing that stays out.
    assert {"packaging/ureca-nano", "models", "configs/demo/tabletop.mp4"} <= allowed


@pytest.mark.parametrize("name", DOCKERFILES)
def test_its_commands_are_commands(repository, name):
    final = dict(_instructions(repository, name))
    words = re.search(r"ureca (\w+) (.*?) \|\|", final["HEALTHCHECK"])
    assert words[1] in cli.COMMANDS
    _accepts([words[1], *shlex.split(words[2])])
    _accepts(["run", *re.findall(r'"(.*?)"', final["CMD"])])


class _Parsed(Exception):  # noqa: N818  (it says that all is well)
    pass


@pytest.fixture(autouse=True)
def _only_parse(monkeypatch):
    """Commands stop once their arguments were understood."""
    understand = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        understand(self, args, namespace)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


def _accepts(words):
    with pytest.raises(_Parsed):
        cli.main(words)


def test_a_wrong_option_would_be_noticed():
    with pytest.raises(SystemExit):
        cli.main(["health", "--tiemout", "5"])


def _unit(repository):
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    unit.optionxform = str
    unit.read_string((repository / "packaging" / "systemd" / "ureca-node.service").read_text())
    return unit


def test_the_service_has_a_user_of_its_own_and_gives_up_in_the_end(repository):
    unit = _unit(repository)
    service = unit["Service"]
    assert service["DynamicUser"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["Restart"] == "on-failure"
    assert int(unit["Unit"]["StartLimitBurst"]) > 0
    assert "WatchdogSec" not in service  # the node tells systemd nothing
    words = shlex.split(service["ExecStart"])
    assert words[0].endswith("/ureca")
    _accepts(words[1:])


def test_systemd_understands_the_unit(repository, tmp_path):
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("not proven: systemd-analyze is not installed here")
    text = (repository / "packaging" / "systemd" / "ureca-node.service").read_text()
    unit = tmp_path / "ureca-node.service"
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = subprocess.run([tool, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    command = [tool, "security", "--offline=yes", "--threshold=25", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]
