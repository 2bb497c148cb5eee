"""Region ids: never twice, in bounded memory."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.errors import RegionError
from ureca.node.config_checks import ID_PATTERN
from ureca.node.tracking import track_registry
from ureca.node.tracking.track_registry import RegionNames

_WANTED = st.none() | st.from_regex(re.compile(r"(r|cup|r-)[0-9-]{0,2}", re.ASCII), fullmatch=True)
_LONG = st.sampled_from(["x" * 64, "x" * 63 + "y", "x" * 56 + "-2"])


@given(st.lists(_WANTED | _LONG, max_size=60))
def test_no_id_is_given_twice(wanted: list[str | None]) -> None:
    names = RegionNames()
    given_out = [names.new(name) for name in wanted]
    assert len(set(given_out)) == len(given_out)
    assert all(ID_PATTERN.fullmatch(rid) for rid in given_out)


def test_a_name_is_kept_when_it_is_free() -> None:
    names = RegionNames()
    assert [names.new(name) for name in ("cup", "cup", None, "r1", "cup-3", "cup", None)] == [
        "cup",
        "cup-2",
        "r1",
        "r1-2",
        "cup-3",
        "cup-4",
        "r2",
    ]


def test_a_tracker_that_names_new_things_for_ever_fills_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(track_registry, "MAX_NAMES", 3)
    names = RegionNames()
    given_out = [names.new(f"thing{k}") for k in range(6)]
    assert given_out == ["thing0", "thing1", "thing2", "r1", "r2", "r3"]
    assert names.new("thing1") == "r4"


def test_a_name_that_is_no_id_is_refused() -> None:
    with pytest.raises(RegionError, match="must match"):
        RegionNames().new("Cup!")
