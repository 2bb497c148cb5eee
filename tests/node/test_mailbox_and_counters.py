from __future__ import annotations

import threading

import pytest

from ureca.node.counters import NodeCounters
from ureca.node.sources.frame_mailbox import Mailbox
from ureca.testing import SyntheticSource

SOURCE = SyntheticSource(frames=9)


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    counters = NodeCounters()
    mailbox = Mailbox(counters)
    for frame in SOURCE:
        counters.frame_in()
        mailbox.put(frame)
    taken = mailbox.take(0)
    assert taken is not None
    assert taken.seq == 8
    assert mailbox.take(0) is None
    assert counters.balance().frames_dropped == {"superseded": 8}


def test_a_frame_with_prompts_is_never_replaced() -> None:
    mailbox = Mailbox(NodeCounters())
    mailbox.put(SOURCE.frame(0), keep=True)
    putter = threading.Thread(target=mailbox.put, args=(SOURCE.frame(1),), name="putter")
    putter.start()
    first, second = mailbox.take(5), mailbox.take(5)
    putter.join()
    assert [first and first.seq, second and second.seq] == [0, 1]


def test_closing_lets_a_waiting_source_go_and_counts_what_is_left() -> None:
    counters = NodeCounters()
    mailbox = Mailbox(counters)
    counters.frame_in(2)
    mailbox.put(SOURCE.frame(0))
    results = []
    putter = threading.Thread(
        target=lambda: results.append(mailbox.put(SOURCE.frame(1), wait=True))
    )
    putter.start()
    mailbox.close()
    putter.join()
    assert results == [False]
    assert counters.balance().frames_dropped == {"shutdown": 2}
    assert counters.balance().closed


def test_more_streams_than_allowed_are_turned_away() -> None:
    counters = NodeCounters()
    mailbox = Mailbox(counters, max_streams=1)
    mailbox.put(SOURCE.frame(0))
    mailbox.put(SyntheticSource(stream="cam1").frame(0))
    assert counters.balance().frames_dropped == {"busy": 1}


def test_the_books_know_only_the_reasons_of_the_closed_list() -> None:
    with pytest.raises(ValueError, match="drop reason"):
        NodeCounters().frame_dropped("boredom")  # type: ignore[arg-type]


def test_open_books_say_what_is_open() -> None:
    counters = NodeCounters()
    counters.frame_in(3)
    counters.frame_processed()
    counters.frame_dropped("expired")
    counters.request_in()
    balance = counters.balance()
    assert not balance.closed
    assert (balance.frames_in_flight, balance.requests_in_flight) == (1, 1)
    assert balance.counters()["drop_expired"] == 1
