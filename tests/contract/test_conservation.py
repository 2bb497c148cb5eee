from __future__ import annotations

import pytest

from ureca.invariants import imbalances
from ureca.protocol import events as ev

GOOD = {
    "frames_in": 5,
    "frames_processed": 3,
    "drop_superseded": 2,
    "requests_in": 1,
    "caption_final": 1,
}
BOX = (0, 0, 4, 4)


def _track(kind, rid="r"):
    more = {} if kind is ev.TrackNew else {"reason": "restart"}
    return kind(stream="cam0", rid=rid, seq=0, captured_ns=0, box=BOX, **more)


def _start(number=1):
    return ev.CaptionStart(
        stream="cam0", rid="r", request_id=number, trigger="new", seq=0, captured_ns=0
    )


def _end(number=1):
    return ev.CaptionAbort(stream="cam0", rid="r", request_id=number, reason="deadline")


def test_books_that_balance():
    assert imbalances(GOOD) == []
    counters = {**GOOD, "caption_final": 0, "caption_abort": 1}
    told = [_track(ev.TrackNew), _start(), _end(), _track(ev.TrackEnd)]
    assert imbalances(counters, told) == []
    waiting = {**GOOD, "frames_in": 6, "frames_in_flight": 1}
    assert imbalances(waiting, closed=False) == []
    assert imbalances(waiting) == ["1 frames are still in flight"]


@pytest.mark.parametrize(
    ("changes", "told", "words"),
    [
        ({"frames_in": 6}, [], "6 frames came in, 5 ended"),
        ({"caption_error": 1}, [], "1 requests came in, 2 ended"),
        ({"frames_in_flight": -1, "frames_in": 4}, [], "is -1"),
        ({}, [_start()], "never ended"),
        ({}, [_end()], "1 caption.abort were published, 0 counted"),
        ({"caption_abort": 1}, [_end(), _end()], "ended twice"),
        ({"caption_abort": 1}, [_end(), _start()], "goes on after its caption.abort"),
        ({}, [_track(ev.TrackNew)], "never ended"),
        ({}, [_track(ev.TrackNew), _track(ev.TrackEnd), _track(ev.TrackNew)], "began twice"),
        ({}, [_track(ev.TrackNew), _track(ev.TrackEnd), _start()], "after its end"),
    ],
)
def test_what_does_not_add_up_is_said(changes, told, words):
    assert any(words in line for line in imbalances({**GOOD, **changes}, told))
