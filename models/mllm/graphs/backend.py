"""Runs the graphs `vision`, `regions`, `lm` and `gather` of a full-size captioner in any runtime.

As `models/runtime/graph_backend.py` for the nano. The difference: prompts have text on both sides
of the image and of the region, of different lengths in a batch, so `lm` is told the positions of
its tokens and how many leading places of a row are padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.bundle import LanguageSpec
from ureca.errors import EngineError
from ureca.models.runtime.decode import F32, I64, Choice
from ureca.models.runtime.graph_backend import Runner, Value, Values
from ureca.models.runtime.graph_names import GATHER, LM, REGIONS, VISION, LmNames


class LanguageBackend:
    """The four graphs, and the table of word embeddings [V + 2, d].

    The last two rows are those of the tokens around a mask block, `mark_ids`, which have
    embeddings of their own in a prompt and their ordinary ones in a caption.
    """

    def __init__(self, runner: Runner, *, table: npt.NDArray[Any], spec: LanguageSpec) -> None:
        self._runner, self._table, self._spec = runner, table, spec
        self._names = LmNames.of(spec.layers)

    def encode(self, pixels: F32) -> tuple[Value, Values]:
        """Tiles f32 [T, 3, S, S] of one image -> image tokens [1, P, d] and maps."""
        names = ("image_tokens", *self._spec.maps)
        values = self._runner.run(VISION, names, {"pixel_values": self._put(pixels)})
        tokens = values.pop("image_tokens")
        if not np.isfinite(tokens.numpy()).all():
            raise EngineError("vision gave numbers that are not finite: the weights are damaged")
        return tokens, values

    def regions(self, masks: F32, tokens: Value, maps: Values) -> F32:
        """masks f32 [N, T, M, M] -> region tokens f32 [N, K, d]."""
        feeds = {"masks": self._put(masks), "image_tokens": tokens, **maps}
        found = self._runner.run(REGIONS, ["region_tokens"], feeds)
        return np.asarray(found["region_tokens"].numpy())

    def embed(self, ids: I64, *, mark_ids: Sequence[int] = ()) -> F32:
        """Token ids [...] -> f32 [..., d]; `mark_ids` get the last rows of the table."""
        rows = ids.copy()
        for number, mark in enumerate(mark_ids):
            rows[ids == mark] = len(self._table) - len(mark_ids) + number
        return np.asarray(self._table[rows], np.float32)

    def make_prefix(self, x: F32, positions: I64) -> Values:
        """x f32 [1, P, d] at positions i64 [A, 1, P] -> the keys and values that all rows share."""
        feeds = self._feed(x, positions, np.zeros(1, np.int64))
        feeds |= self._make_empty(self._names.prefix, 1) | self._make_empty(self._names.own, 1)
        values = self._runner.run(LM, self._names.grown, feeds)
        return dict(zip(self._names.prefix, values.values(), strict=True))

    def step(
        self, prefix: Values, own: Values | None, x: F32, positions: I64, padding: I64
    ) -> tuple[Choice, Values]:
        """Run x f32 [N, Q, d] after the prefix and `own` (None: nothing yet)."""
        wanted = ("argmax", "logprob")
        feeds = self._feed(x, positions, padding)
        values, grown = self._run(wanted, prefix, own, feeds, rows=len(x))
        return Choice(values["argmax"].numpy()[:, 0], values["logprob"].numpy()[:, 0]), grown

    def logits(
        self, prefix: Values, own: Values | None, x: F32, positions: I64, padding: I64
    ) -> tuple[F32, Values]:
        """As `step`, but return all logits f32 [N, V]. Parity reports compare them."""
        feeds = self._feed(x, positions, padding)
        values, grown = self._run(("logits",), prefix, own, feeds, rows=len(x))
        return np.asarray(values["logits"].numpy(), np.float32), grown

    def keep(self, own: Values, slots: I64) -> Values:
        """Gather rows of every layer's own keys and values."""
        values = self._runner.run(GATHER, self._names.grown, {"rows": self._put(slots), **own})
        return dict(zip(self._names.own, values.values(), strict=True))

    def _run(
        self,
        wanted: Sequence[str],
        prefix: Values,
        own: Values | None,
        feeds: dict[str, Value],
        *,
        rows: int,
    ) -> tuple[dict[str, Value], Values]:
        past = own if own is not None else self._make_empty(self._names.own, rows)
        values = self._runner.run(LM, (*wanted, *self._names.grown), {**feeds, **prefix, **past})
        pairs = zip(self._names.own, self._names.grown, strict=True)
        return values, {after: values[before] for after, before in pairs}

    def _feed(self, x: F32, positions: I64, padding: I64) -> dict[str, Value]:
        given: dict[str, npt.NDArray[Any]]
        given = {"x": x, "positions": positions, "padding": padding}
        return {name: self._put(array) for name, array in given.items()}

    def _make_empty(self, names: Iterable[str], rows: int) -> dict[str, Value]:
        shape = (self._spec.heads, rows, 0, self._spec.head_dim)
        return dict.fromkeys(names, self._put(np.zeros(shape, np.float32)))

    def _put(self, array: npt.NDArray[Any]) -> Value:
        return self._runner.put(np.ascontiguousarray(array))
