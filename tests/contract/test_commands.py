from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ureca import cli
from ureca.cli import watch
from ureca.cli.watch import Board, line
from ureca.errors import ConfigError


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert command.example in text
    assert cli.main([]) == 2


def test_version_and_unknown_commands(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "ureca 0.1.0\n"
    assert cli.main(["wach"]) == 2
    assert "unknown command 'wach'" in capsys.readouterr().err


def _command(tmp_path, monkeypatch, body):
    (tmp_path / "fake_command.py").write_text(f"def main(argv):\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fake_command", raising=False)
    return cli.guarded("fake_command", ["a"])


def test_exit_codes(tmp_path, monkeypatch, capsys):
    assert _command(tmp_path, monkeypatch, "return 3 if argv == ['a'] else 4") == 3
    raising = "from ureca.errors import ConfigError; raise ConfigError('wrong key')"
    assert _command(tmp_path, monkeypatch, raising) == 2
    assert capsys.readouterr().err == "ureca: ConfigError: wrong key\n"
    assert issubclass(ConfigError, ValueError)
    assert _command(tmp_path, monkeypatch, "raise KeyboardInterrupt") == 130
    with pytest.raises(ZeroDivisionError):
        _command(tmp_path, monkeypatch, "1 / 0")


def test_a_reader_that_leaves_is_no_error(repository):
    script = (
        "import sys, types; m = types.ModuleType('noisy')\n"
        "def main(argv):\n    [print('x' * 1000) for _ in range(10000)]; return 0\n"
        "m.main = main; sys.modules['noisy'] = m\n"
        "from ureca import cli; sys.exit(cli.guarded('noisy', []))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"")


def test_module_entry(repository):
    done = subprocess.run(
        [sys.executable, "-m", "ureca", "watch", "--help"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0
    assert "example:" in done.stdout


def test_the_board_follows_a_region(every_event):
    board = Board()
    texts = []
    for event in every_event:
        board.apply(event)
        row = board.rows.get(("cam1", "r1"))
        texts.append(None if row is None else (row.state, row.writing, row.text))
    assert texts[0] == ("alive", None, "")
    assert texts[2] == ("lost (drift)", None, "")
    assert texts[4] is None
    assert texts[5] == ("alive", "", "")
    assert texts[6] == ("alive", " cup", "")
    assert texts[7] == ("alive", None, "a red cup")
    row = board.rows["cam1", "r1"]
    assert row.age_s(4_500_000) == pytest.approx(0.0005)
    assert (row.trigger, row.score) == ("new", 0.5)


def test_the_board_is_bounded(every_event):
    import msgspec

    board = Board(max_rows=3)
    for number in range(10):
        board.apply(msgspec.structs.replace(every_event[0], rid=f"r{number}"))
    assert [rid for _, rid in board.rows] == ["r7", "r8", "r9"]


def test_lines_say_what_happened(every_event):
    lines = [said for event in every_event if (said := line(event)) is not None]
    assert lines[0] == "cam1/r1           track.new       at [1, 2, 30, 40]"
    assert "cam1/r1           caption.final   'a red cup' (new, score 0.50 2 ms old)" in lines
    assert any("BAD_OUTPUT" in said for said in lines)


def test_the_table_draws(every_event):
    console = pytest.importorskip("rich.console")
    board = Board()
    for event in every_event[5:8]:
        board.apply(event)
    screen = console.Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    screen.print(watch.table(board, 4_500_000))
    screen.file.close()
    assert "a red cup" in screen.export_text()


def test_watch_prints_json_lines_until_its_time_is_over(capsys, tmp_path):
    nobody = ["--events", f"ipc://{tmp_path}/e", "--requests", f"ipc://{tmp_path}/r"]
    assert watch.main([*nobody, "--json", "--duration", "0.2"]) == 0
    assert capsys.readouterr().out == ""
