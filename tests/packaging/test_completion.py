"""What a shell offers at Tab, asked of the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from ureca import cli
from ureca.cli import completion

HELP = """usage: ureca thing [-h] [-o DIR] [--style {short,long}] ACTION ...

positional arguments:
  ACTION
    make                make one
    no-op               long text that
                        goes on here

options:
  -h, --help            show this help message and exit
  -o DIR, --out DIR     where it goes
  --style {short,long}  a noun phrase or a sentence
  --a-very-long-option-name VALUE
                        its text --not-an-option
"""


def test_a_help_text_is_read():
    known = completion.read_help(HELP)
    assert known.actions == ("make", "no-op")
    assert known.options == {
        "-h": None,
        "--help": None,
        "-o": (),
        "--out": (),
        "--style": ("short", "long"),
        "--a-very-long-option-name": (),
    }
    assert completion.read_help("positional arguments:\n  {engine,node}\n").actions == (
        "engine",
        "node",
    )


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["ru"], ["run"]),
        (["wat", ""], []),
        (["run", "--st"], ["--style"]),
        (["run", "--style", "l"], ["long"]),
        (["run", "--out", ""], []),
        (["run", "--style", "long", ""], ["make", "no-op"]),
        (["run", "make", "x"], []),
    ],
)
def test_what_may_stand_here(typed, offered):
    assert completion.words(typed, lambda _path: HELP) == offered


def test_every_command_offers_what_its_own_help_names(capsys):
    pytest.importorskip("cv2")
    assert completion.words(["run", "--sou"]) == ["--source"]
    assert completion.words(["keys", "new", "--role", "ob"]) == ["observe"]
    assert completion.words(["bench", "n"]) == ["node"]
    assert not capsys.readouterr().out


def test_names_of_commands_load_no_room():
    code = "import sys; from ureca import cli; cli.main(['completion', 'words', '']); "
    code += "assert not {'ureca.node', 'ureca.models', 'cv2', 'torch'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_path("")
    )
    assert set(cli.COMMANDS) < set(done.stdout.split())


@pytest.fixture
def shell(tmp_path, repository):
    """Runs a script in a shell that finds `ureca` and the file of its completion in `$SCRIPT`."""
    command = tmp_path / "bin" / "ureca"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ureca "$@"\n')
    command.chmod(0o755)

    def run(name, script):
        if shutil.which(name) is None:
            pytest.skip(f"not proven: {name} is not installed here")
        file = tmp_path / f"ureca.{name}"
        file.write_text(completion.SCRIPTS[name])
        done = subprocess.run(
            [name, *{"bash": ("--norc",), "zsh": ("-f",), "fish": ("--no-config",)}[name]],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            cwd=tmp_path,
            env=_path(str(command.parent))
            | {"SCRIPT": str(file), "PYTHONPATH": str(repository), "HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


def _path(folder):
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_bash_completes(shell):
    script = """
        source "$SCRIPT"
        ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ureca; echo "${COMPREPLY[@]};"; }
        ask ureca wat
        ask ureca keys new --role ""
        ask ureca keys no
        complete -p ureca
    """
    said = " ".join(shell("bash", script))
    assert said.startswith("watch; camera observe request admin; ;")
    assert "-F _ureca ureca" in said


def test_zsh_completes(shell):
    # compadd works only inside zsh's line editor; a function of its name hears what it is given.
    script = """
        compdef() { : }; _files() { print files }; compadd() { shift; print -- $@ }
        source "$SCRIPT"
        words=(ureca wat) CURRENT=2; _ureca
        words=(ureca keys new --role '') CURRENT=5; _ureca
        words=(ureca keys new a) CURRENT=4; _ureca
    """
    assert shell("zsh", script) == ["watch", "camera", "observe", "request", "admin", "files"]


def test_fish_completes(shell):
    script = """
        source "$SCRIPT"
        complete -C "ureca wat"
        complete -C "ureca keys new --role "
        complete -C "ureca keys new ureca.f"
    """
    said = shell("fish", script)
    assert said[0] == "watch"
    assert set(said[1:5]) == {"camera", "observe", "request", "admin"}
    assert said[5:] == ["ureca.fish"]
