"""Both wheels in a fresh environment, far from the checkout: what a user gets is what runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.once import build_once
from ureca import __version__

# The first test waits for two wheels and an environment, which took 142 s at a load of 30.
pytestmark = pytest.mark.timeout(400)


class Installed:
    """An environment that holds our wheels alone; their needs come from the one that tests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "venv" / "bin"

    def fill(self, *wheels: Path) -> None:
        folder = self.folder
        (folder / "home").mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.pip("install", "--no-deps", "--no-index", *wheels)
        # Only now, or pip would see the `ureca` of the environment that tests, and be content.
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        site.joinpath("needs.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.bin / "python", *arguments]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def _environment(self) -> dict[str, str]:
        """Without the checkout, and with a home of its own."""
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return kept | {"HOME": str(self.folder / "home")}

    def run(self, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / command, *arguments],
            cwd=self.folder / "home",
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory, ureca_wheel, weights_wheel):
    for module in ("cv2", "onnxruntime", "tokenizers"):
        pytest.importorskip(module)
    return _installed_once(tmp_path_factory, "installed", ureca_wheel, weights_wheel)


@pytest.fixture(scope="module")
def without_weights(tmp_path_factory, ureca_wheel):
    for module in ("cv2", "onnxruntime"):
        pytest.importorskip(module)
    return _installed_once(tmp_path_factory, "client", ureca_wheel)


def _installed_once(tmp_path_factory, name, *wheels):
    def build(folder):
        Installed(folder).fill(*wheels)

    return Installed(build_once(tmp_path_factory, name, build))


def _where(installed, name):
    code = f"from ureca.models.runtime import pretrained; print(pretrained.{name}())"
    return installed.run("python", "-c", code).stdout.strip()


def test_the_installed_package_runs_and_says_its_version(installed):
    assert installed.run("ureca", "--version").stdout == f"ureca {__version__}\n"
    assert _where(installed, "require_bundle").startswith(str(installed.folder))
    assert str(installed.folder) in _where(installed, "find_demo_clip")


def test_run_without_a_source_plays_the_demo_clip_with_the_installed_weights(installed):
    events = installed.folder / "events.jsonl"
    sockets = [f"publish.{name}=ipc://{installed.folder}/{name}" for name in ("events", "requests")]
    done = installed.run(
        "ureca", "run", "--duration", "6", "--quiet", "--events", events,
        *(word for setting in sockets for word in ("--set", setting)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in events.read_text().splitlines()]
    captions = [event["text"] for event in said if event["ev"] == "caption.final"]
    assert captions, done.stdout
    assert all(captions)


def test_describe_with_the_installed_weights(installed):
    picture = Path(_where(installed, "require_bundle")) / "golden.png"
    done = installed.run("ureca", "describe", picture, "--box", "40,40,200,200", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"]


@pytest.mark.parametrize("command", ["describe", "run"])
def test_without_weights_the_commands_that_bring_them_are_named(without_weights, command):
    picture = without_weights.folder / "home" / "picture.png"
    picture.write_bytes(_png())
    arguments = {
        "describe": (picture, "--box", "0,0,8,8"),
        "run": ("--source", picture.parent, "--duration", "1", "--quiet"),
    }
    done = without_weights.run("ureca", command, *arguments[command])
    assert done.returncode == 2
    assert "pip install 'ureca[nano]'" in done.stderr
    assert "--bundle DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_demo_clip_a_source_is_asked_for(without_weights):
    done = without_weights.run("ureca", "run", "--duration", "1", "--quiet")
    assert done.returncode == 2
    assert "ureca run --source" in done.stderr
    assert "Traceback" not in done.stderr


def _png():
    import cv2
    import numpy as np

    return cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes()


def test_a_client_alone_is_told_which_extra_a_command_needs(ureca_wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target",
         site, ureca_wheel],
        check=True,
        capture_output=True,
    )  # fmt: skip
    light = "import sys\nfor name in ('cv2', 'torch', 'onnx', 'onnxruntime', 'tqdm', 'tokenizers'):"
    light += "\n    sys.modules[name] = None\nfrom ureca import cli\n"
    told = f"{light}for name in sys.argv[1:]: print(cli.main([name, '--help']))"
    commands = ["run", "replay", "describe", "caption", "eval", "train", "export", "worlds", "data"]
    done = subprocess.run(
        [sys.executable, "-c", told, *commands],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["2"] * len(commands), done.stderr
    lines = dict(zip(commands, done.stderr.splitlines(), strict=True))
    assert "checkout" in lines.pop("worlds")  # no wheel has it
    assert all("pip install 'ureca[" in line for line in lines.values()), done.stderr
