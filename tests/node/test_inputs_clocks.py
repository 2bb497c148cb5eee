"""Stamps of another host's clock become stamps of ours, whatever they began with."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ureca.clock import ManualClock, clock_domain
from ureca.datatypes import Frame
from ureca.node.sources.clock_sync import Clocks

MS, S = 1_000_000, 1_000_000_000
HOUR = 3600 * S


def frame(seq: int, captured_ns: int, received_ns: int, **more: object) -> Frame:
    image = np.zeros((2, 2, 3), np.uint8)
    made = Frame("cam0", b"b" * 16, seq, captured_ns, image, received_ns=received_ns)
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("skew_ns", [0, 5 * S, -5 * S, HOUR, -30 * 24 * HOUR])
@pytest.mark.parametrize("clock", ["mono", "utc"])
def test_ages_of_another_clock_are_true_but_for_the_shortest_way(skew_ns: int, clock: str) -> None:
    clocks, draw = Clocks(ManualClock(), is_local=False), np.random.default_rng(1)
    for seq in range(300):
        true_ns = HOUR + seq * 33 * MS
        way_ns = 2 * MS + int(draw.exponential(3 * MS))
        came = frame(seq, true_ns + skew_ns, true_ns + way_ns, clock=clock, clock_id=b"another")
        ours = clocks.ours(came)
        assert ours.clock == "mono"
        assert ours.received_ns == came.received_ns
        if seq > 30:
            assert 0 <= ours.received_ns - ours.captured_ns <= way_ns
            assert ours.captured_ns - true_ns < 3 * MS


def test_a_clock_that_runs_off_is_followed() -> None:
    clocks = Clocks(ManualClock(), is_local=False)
    for seq in range(6000):  # 200 s at 100 ppm: 20 ms
        true_ns = seq * 33 * MS
        stamp_ns = HOUR + true_ns - true_ns // 10_000
        ours = clocks.ours(frame(seq, stamp_ns, true_ns + 2 * MS, clock_id=b"another"))
        assert abs(ours.captured_ns - true_ns - 2 * MS) <= 3 * MS


def test_a_sender_that_starts_anew_is_measured_anew() -> None:
    clocks = Clocks(ManualClock(), is_local=False)
    clocks.ours(frame(0, 0, HOUR, clock_id=b"another"))
    again = frame(0, 7 * HOUR, HOUR + S, clock_id=b"another", session_id=b"c" * 16)
    assert clocks.ours(again).captured_ns == HOUR + S


def test_a_jump_of_the_stamps_heals_within_two_spans() -> None:
    clocks = Clocks(ManualClock(), is_local=False)
    ages = []
    for seq in range(1000):
        true_ns = seq * 33 * MS
        jump_ns = 60 * S if seq == 100 else 0
        ours = clocks.ours(frame(seq, true_ns + jump_ns, true_ns + MS, clock_id=b"another"))
        ages.append(ours.received_ns - ours.captured_ns)
    assert ages[100] == 0
    assert ages[101] == 60 * S
    assert max(ages[-300:]) == 0


@pytest.mark.parametrize(
    ("is_local", "clock_id", "is_ours"),
    [
        (True, None, True),
        (False, None, False),
        (True, clock_domain(), True),
        (False, clock_domain(), True),  # through a bridge of this host, say
        (True, b"another", False),  # a time namespace on this host
    ],
)
def test_which_stamps_are_ours(is_local, clock_id, is_ours) -> None:
    came = frame(0, 5, 9, clock_id=clock_id)
    ours = Clocks(ManualClock(), is_local=is_local).ours(came)
    assert (ours is came) == is_ours
    assert ours.captured_ns == (5 if is_ours else 9)


def test_processes_of_one_host_share_a_domain() -> None:
    code = "from ureca.clock import clock_domain; print(clock_domain().hex())"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert bytes.fromhex(said.stdout.strip()) == clock_domain()
    assert len(clock_domain()) == 16
