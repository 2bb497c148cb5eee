"""A few seconds of what `tools/fuzz.py` does for minutes: strangers' bytes into every reader."""

from __future__ import annotations

import random

import pytest

from tools.fuzz_targets import MAX_INPUT, SEPARATOR, TARGETS, mutate, run, seeds

INPUTS = 3000
SLOW = {"recording": 300, "tar": 300, "zmtp": 100, "decoder": 1500}
"""Files and connections take longer than messages."""


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_was_found_before_do_no_harm(name: str) -> None:
    for data in seeds(name):
        run(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_the_documented_errors_comes_out(name: str) -> None:
    draw, pool = random.Random(name), seeds(name)
    for _ in range(SLOW.get(name, INPUTS)):
        data = mutate(draw.choice(pool), draw, pool)
        assert len(data) <= MAX_INPUT
        try:
            run(name, data)
        except BaseException as error:
            error.add_note(f"{name}: {data.hex()}") if hasattr(error, "add_note") else None
            raise


@pytest.mark.parametrize("name", ["event", "frame", "request", "reply", "rle"])
def test_mutations_get_past_the_first_checks(name: str) -> None:
    """A fuzzer whose inputs all die at the door proves nothing."""
    draw, pool = random.Random(name), seeds(name)
    target, promised = TARGETS[name]
    reasons, accepted = set(), 0
    for _ in range(INPUTS):
        data = mutate(draw.choice(pool), draw, pool)
        try:
            target(data)
            accepted += data not in pool
        except promised as error:
            reasons.add(str(error)[:24])
    # a changed mask code almost never adds up; test_rle_properties makes those that do
    assert accepted >= INPUTS // 500 or name == "rle", sorted(reasons)
    assert len(reasons) >= 6, sorted(reasons)


def test_a_fault_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise KeyError(data)

    monkeypatch.setitem(TARGETS, "topic", (broken, TARGETS["topic"][1]))
    with pytest.raises(KeyError):
        run("topic", SEPARATOR)
