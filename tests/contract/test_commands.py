from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ureca import cli
from ureca.cli import watch
from ureca.cli.watch import line
from ureca.client.region_cache import RegionCache
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


def drawn(regions, now_ns=4_500_000):
    """The columns of the table."""
    pytest.importorskip("rich.table")
    return [[str(cell) for cell in column.cells] for column in watch.table(regions, now_ns).columns]


def test_the_table_follows_a_region(every_event):
    regions = RegionCache()
    rows = []
    tracks, end, captions = every_event[:4], every_event[4], every_event[5:]
    for event in (*tracks, *captions, end):
        regions.apply(event)
        columns = drawn(regions)
        rows.append(tuple(columns[n][0] for n in (2, 3, 4, 5, 6)) if columns[0] else None)
    assert rows[0] == ("", "", "", "", "alive")
    assert rows[2] == ("", "", "", "", "lost (drift)")
    assert rows[4] == ("▌", "", "new", "", "alive")
    assert rows[5] == (" cup▌", "", "new", "", "alive")
    assert rows[6] == ("a red cup", "0.0 s", "new", "score 0.50", "alive")
    assert rows[-1] is None
    assert drawn(RegionCache())[0] == []


def test_lines_say_what_happened(every_event):
    lines = [said for event in every_event if (said := line(event)) is not None]
    assert lines[0] == "cam1/r1           track.new       at [1, 2, 30, 40]"
    assert "cam1/r1           caption.final   'a red cup' (new, score 0.50, 2 ms old)" in lines
    assert any("BAD_OUTPUT" in said for said in lines)


def test_the_table_draws(every_event):
    console = pytest.importorskip("rich.console")
    regions = RegionCache()
    for event in every_event[5:8]:
        regions.apply(event)
    screen = console.Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    screen.print(watch.table(regions, 4_500_000))
    screen.file.close()
    assert "a red cup" in screen.export_text()


def test_watch_prints_json_lines_until_its_time_is_over(capsys, tmp_path):
    nobody = ["--events", f"ipc://{tmp_path}/e", "--requests", f"ipc://{tmp_path}/r"]
    assert watch.main([*nobody, "--json", "--duration", "0.2"]) == 1
    assert capsys.readouterr().out == ""
