"""What a shell offers at Tab, asked of the shells themselves where they are installed."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys

import pytest

from ureca import cli

pytest.importorskip("argcomplete", reason="not proven: argcomplete is not installed here")

import argcomplete

from ureca.cli import completion


class _Ended(Exception):  # noqa: N818  (stands in for the end of the process)
    pass


@pytest.fixture
def offered(monkeypatch, capsys):
    """What is offered behind a line; nothing may be carried out or said."""

    def ask(line):
        def end(_code):
            raise _Ended

        for name, value in (("COMP_LINE", line), ("COMP_POINT", str(len(line)))):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("_ARGCOMPLETE", "1")
        monkeypatch.setenv("_ARGCOMPLETE_IFS", "\n")
        # It would take file descriptor 9, which is somebody else's in this process.
        monkeypatch.setattr(argcomplete.CompletionFinder, "_init_debug_stream", lambda _: None)
        output = io.StringIO()
        output.close = lambda: None
        with pytest.raises((_Ended, SystemExit)):
            completion.complete(exit_method=end, output=output)
        assert not capsys.readouterr().out
        return [word.strip() for word in output.getvalue().split("\n") if word.strip()]

    return ask


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ureca wat", ["watch"]),
        ("ureca --v", ["--version"]),
        ("ureca keys new --role ob", ["observe"]),
        ("ureca keys ", ["new", "allow", "revoke", "list"]),
        ("ureca keys new --role observe n", []),
        ("ureca weights l", ["list"]),
        ("ureca completion ", ["bash", "zsh", "fish"]),
        ("ureca completion bash --he", ["--help"]),
        ("ureca bench n", ["node"]),
        ("ureca mllm tr", ["train"]),
    ],
)
def test_what_may_stand_here(offered, line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert offered(line) == words


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_offers_its_options_and_does_nothing_else(offered, command, repository):
    for module in ("cv2", "onnx", "torch", "mujoco"):
        pytest.importorskip(module, reason="not proven: some commands need the extras")
    assert "--help" in offered(f"ureca {command} --")


def test_actions_that_are_modules_of_their_own_offer_their_options(offered):
    pytest.importorskip("cv2")
    assert offered("ureca bench node --fp") == ["--fps"]
    assert offered("ureca run --sou") == ["--source"]


def test_an_unknown_command_has_no_options(monkeypatch):
    for name, value in (("COMP_LINE", "ureca wat x"), ("COMP_POINT", "11")):
        monkeypatch.setenv(name, value)
    assert completion.complete() == 1


def test_names_of_commands_load_no_room(tmp_path):
    code = "import os, sys; from ureca import cli\n"
    code += "out = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); os.dup2(out, 8)\n"
    code += "def leave(code):\n    print(*sys.modules, flush=True); os.kill(os.getpid(), 9)\n"
    code += "from ureca.cli import completion; completion.complete(exit_method=leave)"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": "ureca ", "COMP_POINT": "6", "_ARGCOMPLETE_IFS": " "}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "said")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | asked,
    )
    assert set((tmp_path / "said").read_text().split()) == set(cli.COMMANDS), done.stderr
    loaded = set(done.stdout.split())
    assert "ureca.cli" in loaded
    assert not {"ureca.node", "ureca.models", "cv2", "torch"} & loaded


def test_the_command_line_loads_the_library_only_when_a_shell_asks():
    code = "import sys; from ureca import cli; cli.main(['--version']); "
    code += "assert 'argcomplete' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.fixture
def environment(tmp_path, repository):
    """One in which shells find `ureca` on their path."""
    command = tmp_path / "bin" / "ureca"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ureca "$@"\n')
    command.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key != "INPUTRC"}
    return kept | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(repository),
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


@pytest.fixture
def shell(tmp_path, environment):
    """Runs a script in a shell without its owner's start-up files."""

    def run(name, script):
        if shutil.which(name) is None:
            pytest.skip(f"not proven: {name} is not installed here")
        done = subprocess.run(
            [name, *{"bash": ("--norc",), "zsh": ("-f",), "fish": ("--no-config",)}[name]],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_bash_completes(shell):
    script = """
        source <(ureca completion bash)
        ask() {
            COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9 COMPREPLY=()
            _python_argcomplete ureca
            echo ${COMPREPLY[@]}";"
        }
        ask "ureca wat"
        ask "ureca keys new --role "
        ask "ureca watch --js"
        ask "ureca keys no"
        complete -p ureca
    """
    said = shell("bash", script)
    assert said.startswith("watch ;\ncamera observe request admin;\n--json ;\n;\ncomplete ")
    assert said.endswith("-F _python_argcomplete ureca\n")


def test_bash_completes_at_the_key_itself(environment, tmp_path):
    """Commands, options and choices, typed with Tab at a terminal."""
    if shutil.which("bash") is None:
        pytest.skip("not proven: bash is not installed here")
    above, below = pty.openpty()
    typed = "source <(ureca completion bash)\nureca comple\tba\t\nureca comple\t--he\t\nexit\n"
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=below,
        stdout=below,
        stderr=below,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
    )
    os.close(below)
    os.write(above, typed.encode())
    said = b""
    try:
        while part := os.read(above, 65536):
            said += part
    except OSError:  # the shell has closed its side
        pass
    os.close(above)
    assert bash.wait(timeout=60) == 0
    text = said.decode()
    assert "ureca completion bash" in text
    assert "complete -o nospace" in text  # what `completion bash` prints
    assert "usage: ureca completion" in text  # what `completion --help` prints


def test_zsh_completes(shell):
    # _describe works only inside zsh's line editor; a function of its name hears what it is given.
    script = """
        compdef() { : }; _describe() { print -l -- ${(P)2} }
        source <(ureca completion zsh)
        ask() { BUFFER=$1 CURSOR=${#1} words=(ureca); _python_argcomplete ureca }
        ask "ureca wat"
        ask "ureca keys new --role "
    """
    said = [line.partition(":")[0] for line in shell("zsh", script).splitlines()]
    assert said == ["watch", "camera", "observe", "request", "admin"]


def test_fish_completes(shell):
    script = """
        ureca completion fish | source
        complete -C "ureca wat"
        complete -C "ureca keys new --role "
    """
    said = [line.split()[0] for line in shell("fish", script).splitlines()]
    assert said[0] == "watch"
    assert set(said[1:]) == {"camera", "observe", "request", "admin"}
