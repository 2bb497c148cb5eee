"""The token loop of every runtime: greedy decoding of one batch whose rows end independently.

It handles ids, log-probabilities and text, and no tensors: a runtime provides a `DecodingBatch`.
Time, devices and KV layouts are the runtime's concern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ureca.datatypes import RowDelta, RowDone, Stop
from ureca.models.tokenizer import Detokenizer, SupportsDecode

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

_COMPACT_AT = 0.5
"""Finished rows are dropped when at most this share of the batch is still running.

Dropping copies the own KV of the other rows, which costs about one step of attention. Halving
bounds that to log2(N) copies. A finished row that stays costs its share of every later step.
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """The result of one step: ids i64 [N], and the log-probability of each f32 [N].

    A log-probability that is not finite means that the row's logits were not.
    """

    ids: I64
    logprob: F32


class DecodingBatch(Protocol):
    """One batch in a runtime. Its prompt is set; its own KV grows step by step."""

    def start(self, rows: I64) -> Choice:
        """Run the prompts of `rows` (indices into the caption call, ascending) and choose
        tokens.
        """

    def step(self, ids: I64) -> Choice:
        """Append one token to each row of the batch and choose the next."""

    def keep(self, slots: I64) -> None:
        """Drop every row of the batch except `slots` (indices into the current batch,
        ascending).
        """


@dataclass(frozen=True, slots=True)
class RowPlan:
    """One row of a caption call and the maximum length of its caption."""

    row: int
    max_new_tokens: int


@dataclass(slots=True)
class _DecodingRow:
    plan: RowPlan
    text: Detokenizer
    ids: list[int] = field(default_factory=list)
    logprob_sum: float = 0.0
    chosen: int = 0
    done: bool = False

    def finish(self, stop: Stop) -> Iterator[RowDelta | RowDone]:
        """Emit the text that was held back, then the one terminal."""
        self.done = True
        yield from self._make_delta(self.text.finish())
        score = math.exp(self.logprob_sum / self.chosen) if self.chosen else 0.0
        yield RowDone(
            self.plan.row,
            text=self.text.text,
            n_tok=len(self.ids),
            stop=stop,
            score=min(score, 1.0),
        )

    def accept(self, token_id: int, logprob: float, eos_id: int) -> Iterator[RowDelta | RowDone]:
        """Accept one chosen token."""
        if not math.isfinite(logprob):
            yield from self.finish("non_finite")
            return
        self.logprob_sum += logprob
        self.chosen += 1
        if token_id == eos_id:
            yield from self.finish("eos")
            return
        self.ids.append(token_id)
        yield from self._make_delta(self.text.push(token_id))
        if len(self.ids) >= self.plan.max_new_tokens:
            yield from self.finish("length")

    def _make_delta(self, text: str) -> Iterator[RowDelta]:
        if text:
            yield RowDelta(self.plan.row, offset=len(self.text.text) - len(text), text=text)


def decode(
    stepper: DecodingBatch,
    plans: Sequence[RowPlan],
    tokenizer: SupportsDecode,
    *,
    eos_id: int,
    aborted: Callable[[int], bool],
) -> Iterator[RowDelta | RowDone]:
    """Caption the rows of `plans` greedily; `ureca.engine.Engine.caption` describes what is
    yielded.
    """
    batch = [_DecodingRow(plan, Detokenizer(tokenizer)) for plan in plans]
    yield from _abort(batch, aborted)
    batch = [row for row in batch if not row.done]
    if not batch:
        return
    choice = stepper.start(np.array([row.plan.row for row in batch], np.int64))
    while True:
        yield from _accept(batch, choice, eos_id)
        yield from _abort(batch, aborted)
        alive = [slot for slot, row in enumerate(batch) if not row.done]
        if not alive:
            return
        ids = choice.ids
        if len(alive) <= _COMPACT_AT * len(batch):
            slots = np.array(alive, np.int64)
            stepper.keep(slots)
            batch, ids = [batch[slot] for slot in alive], ids[slots]
        choice = stepper.step(ids)


def _accept(batch: list[_DecodingRow], choice: Choice, eos_id: int) -> Iterator[RowDelta | RowDone]:
    """Pass each row its token. Rows that ended but are not dropped yet ignore it."""
    for row, token_id, logprob in zip(batch, choice.ids, choice.logprob, strict=True):
        if not row.done:
            yield from row.accept(int(token_id), float(logprob), eos_id)


def _abort(
    batch: list[_DecodingRow], aborted: Callable[[int], bool]
) -> Iterator[RowDelta | RowDone]:
    for row in batch:
        if not row.done and aborted(row.plan.row):
            yield from row.finish("aborted")
