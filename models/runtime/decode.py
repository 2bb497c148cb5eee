"""The token loop that every runtime shares: greedy rows of one batch, each ending on its own.

It knows ids, log-probabilities and text, and nothing of tensors: a runtime lends it a
`DecodingBatch`. Time, devices and KV layouts stay on the runtime's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ureca.datatypes import RowDelta, RowDone, Stop
from ureca.models.tokenizer import Decodes, Detokenizer

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

_COMPACT_AT = 0.5
"""Finished rows are dropped once at most this share of the batch is alive.

Dropping copies the own KV of the rest, which costs about as much as one step of attention; halving
bounds that to log2(N) copies, while a dead row costs its share of every step to come.
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one step chose: ids i64 [N], and the log of each chosen probability f32 [N].

    A log-probability that is not finite means that the row's logits were not.
    """

    ids: I64
    logprob: F32


class DecodingBatch(Protocol):
    """One batch in a runtime: its prompt is known, its own KV grows step by step."""

    def start(self, rows: I64) -> Choice:
        """Run the prompts of `rows` (indices into the caption call, ascending) and choose."""

    def step(self, ids: I64) -> Choice:
        """Append one token to each row of the batch and choose the next."""

    def keep(self, slots: I64) -> None:
        """Drop every row of the batch but `slots` (indices into the current batch, ascending)."""


@dataclass(frozen=True, slots=True)
class RowPlan:
    """One row of a caption call and how long its caption may become."""

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

    def end(self, stop: Stop) -> Iterator[RowDelta | RowDone]:
        """Flush what was held back, then the one terminal."""
        self.done = True
        yield from self._delta(self.text.finish())
        score = math.exp(self.logprob_sum / self.chosen) if self.chosen else 0.0
        yield RowDone(
            self.plan.row,
            text=self.text.text,
            n_tok=len(self.ids),
            stop=stop,
            score=min(score, 1.0),
        )

    def take(self, token_id: int, logprob: float, eos_id: int) -> Iterator[RowDelta | RowDone]:
        """Accept one chosen token."""
        if not math.isfinite(logprob):
            yield from self.end("non_finite")
            return
        self.logprob_sum += logprob
        self.chosen += 1
        if token_id == eos_id:
            yield from self.end("eos")
            return
        self.ids.append(token_id)
        yield from self._delta(self.text.push(token_id))
        if len(self.ids) >= self.plan.max_new_tokens:
            yield from self.end("length")

    def _delta(self, text: str) -> Iterator[RowDelta]:
        if text:
            yield RowDelta(self.plan.row, offset=len(self.text.text) - len(text), text=text)


def decode(
    stepper: DecodingBatch,
    plans: Sequence[RowPlan],
    tokenizer: Decodes,
    *,
    eos_id: int,
    aborted: Callable[[int], bool],
) -> Iterator[RowDelta | RowDone]:
    """Caption the rows of `plans` greedily; `ureca.engine.Engine.caption` says what is yielded."""
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
    """Rows that ended but were not dropped yet run along; what they choose is ignored."""
    for row, token_id, logprob in zip(batch, choice.ids, choice.logprob, strict=True):
        if not row.done:
            yield from row.take(int(token_id), float(logprob), eos_id)


def _abort(
    batch: list[_DecodingRow], aborted: Callable[[int], bool]
) -> Iterator[RowDelta | RowDone]:
    for row in batch:
        if not row.done and aborted(row.plan.row):
            yield from row.end("aborted")
