from __future__ import annotations

import logging
import time

import numpy as np
import pytest

import ureca
from ureca import testing
from ureca.clock import ManualClock, MonotonicClock
from ureca.datatypes import Frame, RegionInput, RowDelta, RowDone, Track, TrackSet, TrackState
from ureca.errors import EngineError, MissingExtraError, RegionError, SourceError
from ureca.extras import require
from ureca.log import RateLimitedLog
from ureca.protocol import rle


def test_public_names_are_sorted_and_exist():
    assert ureca.__all__ == sorted(ureca.__all__)
    assert all(hasattr(ureca, name) for name in ureca.__all__)
    public = {
        name
        for name, value in vars(ureca).items()
        if not name.startswith("_") and isinstance(value, type)
    }
    assert public <= set(ureca.__all__)


def test_manual_clock_moves_only_forward():
    clock = ManualClock(5)
    assert clock.advance(ms=1.5) == clock.now_ns() == 1_500_005
    with pytest.raises(ValueError, match="never falls"):
        clock.advance(ns=-1)


def test_monotonic_clock_is_the_hosts():
    before = time.monotonic_ns()
    assert before <= MonotonicClock().now_ns() <= time.monotonic_ns()


def test_a_missing_extra_says_how_to_install_it():
    with pytest.raises(MissingExtraError, match=r"pip install 'ureca\[tensorrt\]'"):
        require("no_such_module_here", extra="tensorrt")


def test_warnings_are_held_back_and_counted(caplog):
    clock = ManualClock()
    limited = RateLimitedLog(logging.getLogger("test"), clock, interval_s=1.0, max_keys=2)
    with caplog.at_level(logging.WARNING, "test"):
        assert limited.warning("a", "bad frame")
        assert not limited.warning("a", "bad frame")
        assert limited.warning("b", "other")
        clock.advance(ms=1000)
        assert limited.warning("a", "bad frame")
        assert limited.warning("c", "third key makes room")
    assert "1 more like it held back" in caplog.text


def test_frames_and_track_sets_are_checked_where_they_are_born():
    with pytest.raises(SourceError, match=r"u8 \[H, W, 3\]"):
        Frame("c", b"b" * 16, 0, 0, np.zeros((4, 4), np.uint8))
    track = Track("r", TrackState.NEW, None, (0, 0, 1, 1), 0, 0)
    with pytest.raises(RegionError, match="unique"):
        TrackSet("c", 0, 0, (track, track))


# --- the shipped fakes ----------------------------------------------------------------------------


def test_the_synthetic_source_repeats_itself_and_its_masks_are_exact():
    source = testing.SyntheticSource(frames=12, things=4, seed=3)
    for frame, again in zip(
        source, testing.SyntheticSource(frames=12, things=4, seed=3), strict=True
    ):
        assert np.array_equal(frame.image, again.image)
        for seed in frame.regions:
            mask = rle.decode(seed.mask)
            assert (frame.image[mask] == testing.COLOURS[seed.label]).all()
    assert not np.array_equal(source.image(0), source.image(11))


@pytest.mark.parametrize(("when", "given"), [("always", 5), ("first", 1), ("never", 0)])
def test_masks_come_when_they_were_asked_for(when, given):
    source = testing.SyntheticSource(frames=5, with_regions=when)
    assert sum(frame.regions is not None for frame in source) == given


def _rows(source, style="short", max_new_tokens=32):
    frame = source.frame(0)
    rows = [RegionInput(rle.decode(seed.mask), style, max_new_tokens) for seed in frame.regions]
    return frame, rows


def test_the_scripted_engine_streams_and_ends_every_row_once():
    frame, rows = _rows(testing.SyntheticSource(things=3), "long")
    engine = testing.ScriptedEngine()
    out = list(engine.caption(engine.encode(frame.image), rows))
    said = ["", "", ""]
    for item in out:
        if isinstance(item, RowDelta):
            assert item.offset == len(said[item.row])
            said[item.row] += item.text
    done = {item.row: item for item in out if isinstance(item, RowDone)}
    assert [done[row].text for row in range(3)] == said
    assert said[0].startswith("a red thing at the")
    assert engine.batches == [3]


def test_the_scripted_engine_fails_when_told():
    frame, rows = _rows(testing.SyntheticSource(things=2))
    engine = testing.ScriptedEngine(hook=lambda call, token: "raise" if token == 1 else "ok")
    with pytest.raises(EngineError, match="token 1"):
        list(engine.caption(engine.encode(frame.image), rows))
    engine = testing.ScriptedEngine(hook=lambda call, token: "non_finite" if token == 2 else "ok")
    out = list(engine.caption(engine.encode(frame.image), rows, aborted=lambda row: row == 1))
    assert {o.row: o.stop for o in out if isinstance(o, RowDone)} == {0: "non_finite", 1: "aborted"}
    with pytest.raises(EngineError, match="at most"):
        testing.ScriptedEngine(max_regions=1).caption(engine.encode(frame.image), rows)


def test_the_scripted_engine_says_when_it_was_cut_short():
    frame, rows = _rows(testing.SyntheticSource(things=1), max_new_tokens=2)
    engine = testing.ScriptedEngine()
    done = [o for o in engine.caption(engine.encode(frame.image), rows) if isinstance(o, RowDone)]
    assert [(o.text, o.stop) for o in done] == [("a red", "length")]


def test_event_capture_keeps_the_books(every_event):
    capture = testing.EventCapture()
    capture(every_event[0])
    capture(every_event[1:])
    assert capture.kinds()[:2] == ["track.new", "track.update"]
    assert capture.terminals() == {
        7: ["caption.final", "caption.same", "caption.abort", "caption.error"]
    }
