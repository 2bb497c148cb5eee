"""`ureca bench node` with real processes and sockets and the scripted engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ureca.errors import UrecaError
from ureca.models.bench.files import read_measurement
from ureca.models.bench.report import render_report
from ureca.node.bench.cli import main

NODE = f"{sys.executable} {Path(__file__).parent / 'scripted_node.py'}"
SHORT = ["--regions", "2", "--fps", "10", "--duration", "6", "--warm-up", "1", "--size", "160x120"]


@pytest.mark.slow
def test_a_short_run_reports_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    out, chart = tmp_path / "node.json", tmp_path / "node.png"
    options = [*SHORT, "--node", NODE, "--subscribers", "2", "--life", "1.5", "--texts", "2"]
    kept = ["--out", str(out), "--chart", str(chart)]
    refresh = ["--", "--set", "scheduler.refresh_s=0.2", "--set", "scheduler.min_interval_s=0.1"]
    assert main([*options, *kept, *refresh]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = last["rows"]
    assert "raw" not in row
    assert row["books_balance"]
    assert row["node"]["exit_code"] == 0
    assert row["model"] == "scripted"
    assert row["c2c_ms"]["all"]["n"] > 0
    assert row["first_caption_ms"]["n"] >= 2
    assert row["texts"]["absent"] >= 2  # they stand, and are asked again
    assert row["texts"]["found"] == row["texts"]["error"] == 0
    assert row["frames"]["sent"] == 70 == row["frames"]["in"] + row["frames"]["never_seen"]
    assert len(row["subscribers"]) == 2
    assert chart.stat().st_size > 1000
    assert render_report([read_measurement(out)], "a page").count("<td>balance</td>") == 1
    report = json.loads(out.read_text())
    finals = report["rows"][0]["raw"]["finals"]
    assert len(finals) == row["c2c_ms"]["all"]["n"]
    for final in report["rows"][0]["raw"]["finals"]:
        final["c2c_ms"] /= 1000  # an older node that was far faster
    out.write_text(json.dumps(report))
    assert main([*options, "--compare", str(out), *refresh]) == 1


def test_a_node_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    broken = f"{sys.executable} -c 'raise SystemExit(\"no camera here\")'"
    with pytest.raises(UrecaError, match="no camera here"):
        main([*SHORT, "--node", broken])


@pytest.mark.long
def test_the_node_finds_the_regions_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    scripted = ["--", "--set", "segmenter.model=scripted"]
    assert main([*SHORT, "--auto", "--node", NODE, *scripted]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["plan"]["auto"]
    assert row["books_balance"]
    assert row["first_caption_ms"]["n"] >= 1
    assert row["c2c_ms"]["all"]["n"] > 0


@pytest.mark.long
def test_whole_frames_in_segments_are_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    scripted = ["--", "--set", "segmenter.model=scripted", "--set", "segmenter.every_frames=3"]
    assert main([*SHORT, "--panoptic", "--regions", "6", "--node", NODE, *scripted]) == 0
    out = capsys.readouterr().out
    (row,) = json.loads(out.splitlines()[-1])["rows"]
    assert row["plan"]["panoptic"]
    assert row["books_balance"]
    found = row["panoptic"]
    assert found["passes"] >= 2
    assert set(found["stages_ms"]) == {"look", "segments"}
    assert found["stages_ms"]["segments"]["n"] == found["passes"]
    assert found["age_ms"]["p50"] > 0
    assert 1 <= found["segments"]["mean"] <= 6
    assert f"{found['per_s']:g} passes a second" in out
    assert row["c2c_ms"]["all"]["n"] > 0
