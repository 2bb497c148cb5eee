"""Decodes with own caches of fixed length, which `lm_static` updates in place.

A step then has the same shapes and, batch after batch, the same addresses, so a runtime may record
it once and replay it (`gpu.plan_replay`). Whatever is not a step of decoding goes the ordinary way.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ureca.errors import EngineError
from ureca.models.config import LanguageConfig
from ureca.models.runtime.buckets import BucketBackend
from ureca.models.runtime.decode import F32, I64, Choice
from ureca.models.runtime.graph_backend import PictureValues, Runner, Value, Values
from ureca.models.runtime.graph_names import GATHER, LM_STATIC


class FixedRunner(Runner, Protocol):
    """A runner that can write to values which exist."""

    def refill(self, value: Value, source: npt.NDArray[Any] | Value) -> None:
        """Write an array, or another value, of the same shape and type into `value`."""

    def run_into(
        self, graph: str, outputs: Sequence[str], feeds: Values, into: Values
    ) -> dict[str, Value]:
        """As `run`, but write the outputs that `into` names to its values. The others are valid
        until the next call of the graph.
        """


@dataclass(eq=False)
class _Caches:
    """One set of caches [H, rows, slots, hd], and the inputs of their steps by length."""

    rows: int
    values: dict[str, Value]
    position: Value
    x: dict[int, Value] = field(default_factory=dict)
    owner: weakref.ref[StaticOwn] | None = None

    @property
    def is_free(self) -> bool:
        """Whether the batch that had these caches is gone."""
        return self.owner is None or self.owner() is None


class StaticOwn(dict[str, Value]):
    """The own KV of a batch: `length` slots of its caches are written. It changes in place."""

    def __init__(self, caches: _Caches, *, length: int = 0) -> None:
        super().__init__(caches.values)
        self.caches, self.length = caches, length
        caches.owner = weakref.ref(self)


class StaticBackend(BucketBackend):
    """As `BucketBackend`; `slots` is the length of the caches. The runner is a `FixedRunner`.

    Caches belong to a batch until its own KV is gone, so batches may be interleaved: each gets a
    set of its own.
    """

    def __init__(
        self,
        runner: FixedRunner,
        *,
        embeddings: npt.NDArray[np.float16] | F32,
        language: LanguageConfig,
        buckets: Sequence[int],
        slots: int,
    ) -> None:
        super().__init__(runner, embeddings=embeddings, language=language, buckets=buckets)
        self._fixed, self._slots = runner, slots
        self._sets: dict[int, list[_Caches]] = {}
        self._prefixes: dict[int, dict[str, Value]] = {}
        self._loaded: dict[int, Values] = {}

    def step(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[Choice, Values]:
        """Run one pass of the language model in place; return the choices of the real rows."""
        padded = self._pad_to_bucket(x)
        mine = own if isinstance(own, StaticOwn) else self._take(len(padded))
        if mine.length + x.shape[1] > self._slots:
            raise EngineError(
                f"expected at most {self._slots} positions of a region, got "
                f"{mine.length + x.shape[1]}: lower max_new_tokens"
            )
        feeds = {**self._fill(mine, padded), **self._load_prefix(picture), **mine}
        into = dict(zip(self._names.grown, (mine[n] for n in self._names.own), strict=True))
        values = self._fixed.run_into(LM_STATIC, ("argmax", "logprob"), feeds, into)
        mine.length += x.shape[1]
        ids, logprob = (values[n].numpy()[: len(x), 0] for n in ("argmax", "logprob"))
        return Choice(ids, logprob), mine

    def read(self, picture: PictureValues, x: F32) -> Values:
        """The own KV of x, of its own length: texts are scored after it."""
        return super().step(picture, x, None)[1]

    def keep(self, own: Values, slots: I64) -> Values:
        """Gather rows into the caches of a smaller bucket."""
        if not isinstance(own, StaticOwn):
            return super().keep(own, slots)
        rows = self._pad_to_bucket(slots)
        kept = self._take(len(rows), length=own.length)
        into = dict(zip(self._names.grown, (kept[n] for n in self._names.own), strict=True))
        self._fixed.run_into(GATHER, (), {"rows": self._put(rows), **own}, into)
        return kept

    def _take(self, rows: int, *, length: int = 0) -> StaticOwn:
        """Return free caches. What earlier batches wrote behind `length` is masked."""
        sets = self._sets.setdefault(rows, [])
        free = next((each for each in sets if each.is_free), None)
        if free is None:
            shape = (self._heads, rows, self._slots, self._head_dim)
            values = {n: self._put(np.zeros(shape, np.float32)) for n in self._names.own}
            free = _Caches(rows, values, position=self._put(np.zeros(1, np.int64)))
            sets.append(free)
        return StaticOwn(free, length=length)

    def _fill(self, own: StaticOwn, x: F32) -> dict[str, Value]:
        caches, steps = own.caches, x.shape[1]
        if steps not in caches.x:
            caches.x[steps] = self._put(np.zeros_like(x))
        self._fixed.refill(caches.x[steps], np.ascontiguousarray(x))
        self._fixed.refill(caches.position, np.array([own.length], np.int64))
        return {"x": caches.x[steps], "position": caches.position}

    def _load_prefix(self, picture: PictureValues) -> Mapping[str, Value]:
        """The prefix at its fixed place, copied there when another picture's was there."""
        length = picture.length
        if length not in self._prefixes:
            shape = (self._heads, 1, length, self._head_dim)
            names = self._names.prefix
            self._prefixes[length] = {n: self._put(np.zeros(shape, np.float32)) for n in names}
        place = self._prefixes[length]
        if self._loaded.get(length) is not picture.prefix:
            for name, value in place.items():
                self._fixed.refill(value, picture.prefix[name])
            self._loaded[length] = picture.prefix
        return place
