"""A short stretch of `tools/chaos.py`; the long ones are in docs/faults.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).resolve().parents[2] / "tools" / "chaos.py"


@pytest.mark.long
@pytest.mark.timeout(240)
def test_whoever_is_killed_or_stopped_the_others_recover() -> None:
    done = subprocess.run(
        [sys.executable, CHAOS, "--minutes", "0.4", "--seed", "6"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everybody recovered, counters balance" in done.stdout
    assert "stop node" in done.stdout  # the second deed of this seed
