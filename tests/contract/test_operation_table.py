"""One table of operations: everything that knows operations reads it."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import pytest

from ureca import Client
from ureca.client.shared import wire_args
from ureca.datatypes import RegionSeed
from ureca.errors import WireError
from ureca.protocol.operations import OPERATIONS, LeastRole
from ureca.security.keys import ROLES

ROOT = Path(__file__).resolve().parents[2]


def test_least_roles_are_roles_of_keys():
    assert set(typing.get_args(LeastRole)) <= set(ROLES)
    assert {op.role for op in OPERATIONS.values()} <= set(typing.get_args(LeastRole))


def test_arguments_of_step_operations_tell_which_operation_it_is():
    """Recordings and the step thread go by the type of the arguments."""
    kinds = [op.args for op in OPERATIONS.values() if op.runs_on == "step"]
    assert len(set(kinds)) == len(kinds)


def test_misspelt_operations_and_arguments_are_refused_before_they_are_sent(tmp_path):
    with Client.connect(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r") as client:
        with pytest.raises(WireError, match="expected an operation of"):
            client.call("hallo")
        with pytest.raises(WireError, match=r"'region.list' has stream; got steam"):
            client.call("region.list", steam="cam0")
        with pytest.raises(WireError, match=r"'health' has no arguments; got x"):
            client.call("health", x=1)
        with pytest.raises(WireError, match=r"a policy has .*; got ttl"):
            client.call("policy.set", stream="cam0", policy={"ttl": 1})


def test_a_seed_becomes_a_region_of_the_protocol():
    seed = RegionSeed(box_xyxy_px=(0.0, 1.0, 4.0, 3.0))
    assert wire_args("region.add", {"stream": "cam0", "region": seed}) == {
        "stream": "cam0",
        "region": {"box": (0.0, 1.0, 4.0, 3.0)},
    }


@pytest.mark.parametrize("tool", ["operations_table.py", "sync_client.py"])
def test_what_is_generated_is_up_to_date(tool):
    if tool == "sync_client.py":
        pytest.importorskip("ruff", reason="the generated client is formatted by ruff")
    done = subprocess.run([sys.executable, f"tools/{tool}", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, f"run: python tools/{tool}"
