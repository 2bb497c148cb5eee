"""The token loop with a scripted stepper: stops, scores, deltas, aborts and dropped rows."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ureca.datatypes import RowDelta, RowDone
from ureca.models.runtime.decode import Choice, RowPlan, decode
from ureca.models.tokenizer import EOS_ID, train_tokenizer

TOKENIZER = train_tokenizer(["a red cup on the table", "the blue mug"] * 4, 120)


class Script:
    """A stepper that reads each row's ids from a script and checks that it is fed its own words."""

    def __init__(self, rows, *, logprob=-0.5):
        self.scripts, self.logprob = rows, logprob
        self.batch, self.place = [], {}
        self.sizes = []

    def start(self, rows):
        self.batch = rows.tolist()
        self.place = dict.fromkeys(self.batch, 0)
        return self._choose()

    def step(self, ids):
        assert len(ids) == len(self.batch)
        for row, token in zip(self.batch, ids, strict=True):
            assert token == max(self._at(row), EOS_ID), "a row was fed another row's token"
            self.place[row] += 1
        return self._choose()

    def keep(self, slots):
        self.batch = [self.batch[slot] for slot in slots]

    def _choose(self):
        self.sizes.append(len(self.batch))
        ids = np.array([self._at(row) for row in self.batch], np.int64)
        bad = [math.nan if token < 0 else self.logprob for token in ids]
        return Choice(np.maximum(ids, EOS_ID), np.array(bad, np.float32))

    def _at(self, row):
        script = self.scripts[row]
        return script[self.place[row]] if self.place[row] < len(script) else EOS_ID


def run(rows, *, limit=32, aborted=lambda row: False, stepper=None):
    stepper = stepper or Script(rows)
    plans = [RowPlan(row, limit) for row in range(len(rows))]
    return list(decode(stepper, plans, TOKENIZER, eos_id=EOS_ID, aborted=aborted))


def ends(events):
    return {event.row: event for event in events if isinstance(event, RowDone)}


def test_rows_end_on_their_own_and_say_what_was_chosen():
    words = [TOKENIZER.encode("a red cup"), TOKENIZER.encode("the blue mug on the table")]
    done = ends(run([[*ids, EOS_ID] for ids in words]))
    assert [done[row].text for row in (0, 1)] == ["a red cup", "the blue mug on the table"]
    assert [done[row].stop for row in (0, 1)] == ["eos", "eos"]
    assert [done[row].n_tok for row in (0, 1)] == [len(ids) for ids in words]


def test_the_score_is_the_geometric_mean_probability():
    done = ends(run([[*TOKENIZER.encode("a cup"), EOS_ID]]))
    assert done[0].score == pytest.approx(math.exp(-0.5), rel=1e-6)


def test_a_caption_stops_at_its_length():
    done = ends(run([TOKENIZER.encode("a red cup on the table")], limit=2))
    assert (done[0].stop, done[0].n_tok) == ("length", 2)


def test_an_empty_caption_is_an_ended_row_without_text():
    (end,) = run([[EOS_ID]])
    assert (end.text, end.n_tok, end.stop) == ("", 0, "eos")


def test_logits_that_are_not_finite_end_only_their_row():
    good = [*TOKENIZER.encode("a red cup"), EOS_ID]
    done = ends(run([good, [good[0], -1], good]))
    assert [done[row].stop for row in range(3)] == ["eos", "non_finite", "eos"]
    assert 0.0 <= done[1].score <= 1.0


def test_rows_aborted_before_the_start_cost_nothing():
    stepper = Script([[5, 6]])
    (end,) = run([[5, 6]], aborted=lambda row: True, stepper=stepper)
    assert (end.stop, end.n_tok, end.score) == ("aborted", 0, 0.0)
    assert stepper.sizes == []


def test_an_abort_is_seen_before_the_next_step():
    asked = itertools.count()
    rows = [TOKENIZER.encode("a red cup on the table")] * 2
    stepper = Script(rows)
    done = ends(run(rows, aborted=lambda row: row == 1 and next(asked) == 2, stepper=stepper))
    assert done[0].text == "a red cup on the table"
    assert (done[1].stop, done[1].n_tok) == ("aborted", 2)
    assert stepper.sizes[:3] == [2, 2, 1]


def test_finished_rows_are_dropped_once_half_of_the_batch_is_left():
    stepper = Script([[5, EOS_ID], [5, 6, EOS_ID], [5, 6, 7, EOS_ID], [5, 6, 7, 8, EOS_ID]])
    run(stepper.scripts, stepper=stepper)
    assert stepper.sizes == [4, 4, 4, 2, 1]


def test_no_rows_need_no_stepper():
    assert run([]) == []


@given(st.lists(st.lists(st.integers(4, TOKENIZER.vocab_size - 1), max_size=7), max_size=9))
def test_every_row_gets_its_own_words_and_exactly_one_end(scripts):
    events = run([[*ids, EOS_ID] for ids in scripts], limit=6)
    done = ends(events)
    assert sum(isinstance(event, RowDone) for event in events) == len(scripts) == len(done)
    for row, ids in enumerate(scripts):
        said = ""
        for event in events:
            if isinstance(event, RowDelta) and event.row == row:
                assert event.offset == len(said)
                said += event.text
        assert said == done[row].text == TOKENIZER.decode(ids[:6])
        assert done[row].n_tok == min(len(ids), 6)
