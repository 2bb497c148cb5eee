"""The backend of every exported bundle: it defines the inputs and outputs of each graph.

A runtime adds a `Runner`, which puts values on its device and runs a graph on them. Values are
opaque here and stay on the device; only what the host needs becomes numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ureca.errors import EngineError
from ureca.models.config import LanguageConfig
from ureca.models.runtime.decode import F32, I64, Choice
from ureca.models.runtime.graph_names import (
    GATHER,
    LM,
    MAPS,
    REGIONS,
    SCORE,
    VISION,
    VISION_OUTPUTS,
    LmNames,
)

Value = Any
"""An OrtValue, a torch tensor or a device buffer. Its `numpy()` copies it to the host."""
Values = Mapping[str, Value]


class Runner(Protocol):
    """Runs graphs in one runtime."""

    def put(self, array: npt.NDArray[Any]) -> Value:
        """Return a contiguous array as a value on the runtime's device."""

    def run(self, graph: str, outputs: Sequence[str], feeds: Values) -> dict[str, Value]:
        """Run one graph and return the named outputs. Raises `EngineError` for inputs that do not
        fit.
        """


@dataclass(frozen=True, slots=True)
class PictureValues:
    """Values of one image: image tokens, feature maps, and the prefix KV after `prefill`, of
    `length` positions.
    """

    tokens: Value
    maps: Values
    prefix: Values
    length: int = 0


class GraphBackend:
    """Implements `engine.Backend` over a runner."""

    def __init__(
        self,
        runner: Runner,
        *,
        embeddings: npt.NDArray[np.float16] | F32,
        language: LanguageConfig,
    ) -> None:
        self._runner = runner
        self._embeddings = np.ascontiguousarray(embeddings, np.float32)
        self._names = LmNames.of(language.layers)
        self._heads, self._head_dim = language.heads, language.head_dim

    def encode(self, pixels: F32) -> PictureValues:
        """Run vision: image tokens and feature maps."""
        values = self._runner.run(VISION, VISION_OUTPUTS, {"pixel_values": self._put(pixels)})
        tokens = values["image_tokens"]
        numbers = tokens.numpy()
        if not np.isfinite(numbers).all():
            raise EngineError(
                "vision gave numbers that are not finite for an ordinary image: the weights are "
                "damaged; export the checkpoint again"
            )
        maps = {name: values[name] for name in MAPS}
        return PictureValues(tokens, maps, {}, length=numbers.shape[1])

    def prefill(self, picture: PictureValues) -> PictureValues:
        """Run the prefix as a step of one row with an empty cache. Its own KV is the prefix."""
        feeds = {
            "x": picture.tokens,
            **self._make_empty(self._names.prefix),
            **self._make_empty(self._names.own),
        }
        values = self._runner.run(LM, self._names.grown, feeds)
        return replace(picture, prefix=_rename(values, self._names.grown, self._names.prefix))

    def regions(self, picture: PictureValues, masks: F32, boxes: F32) -> F32:
        """Compute region tokens f32 [N, K, d]."""
        feeds = {"masks": self._put(masks), "boxes": self._put(boxes), **picture.maps}
        values = self._runner.run(REGIONS, ["region_tokens"], feeds)
        return np.asarray(values["region_tokens"].numpy())

    def embed(self, ids: I64) -> F32:
        """Look up rows of the embedding table."""
        return self._embeddings[ids]

    def step(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[Choice, Values]:
        """Run one pass of the language model. Only ids and log-probabilities become numpy."""
        values, grown = self._run_lm(("argmax", "logprob"), picture, x, own)
        return Choice(values["argmax"].numpy()[:, 0], values["logprob"].numpy()[:, 0]), grown

    def read(self, picture: PictureValues, x: F32) -> Values:
        """The own KV of x [N, Q, d], to score texts after it."""
        return self.step(picture, x, None)[1]

    def logits(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[F32, Values]:
        """As `step`, but return all logits f32 [N, V]. Parity reports compare them."""
        values, grown = self._run_lm(("logits",), picture, x, own)
        return np.asarray(values["logits"].numpy(), np.float32), grown

    def score(self, picture: PictureValues, x: F32, targets: I64, own: Values) -> F32:
        """Log-probability f32 [N, Q] of every target after the prefix, `own` and the texts x."""
        feeds = {"x": self._put(x), "targets": self._put(targets), **picture.prefix, **own}
        return np.asarray(self._runner.run(SCORE, ["logprob"], feeds)["logprob"].numpy())

    def score_after(self, x: F32, targets: I64, *, prefix: F32, own: F32) -> F32:
        """As `score`, with all keys and values as numbers: f32 [2 * layers, H, N, S, hd]."""
        shared = {n: self._put(kv) for n, kv in zip(self._names.prefix, prefix, strict=True)}
        return self.score(PictureValues(None, {}, shared), x, targets, self.own(own))

    def own(self, keys_values: F32) -> Values:
        """An own KV from numbers: f32 [2 * layers, H, N, S, hd], keys of all layers first."""
        names = self._names.own
        return {name: self._put(kv) for name, kv in zip(names, keys_values, strict=True)}

    def drop_prefix(self, picture: PictureValues) -> PictureValues:
        """Return the image with an empty prefix, for runs whose input contains the image tokens."""
        return replace(picture, prefix=self._make_empty(self._names.prefix))

    def keep(self, own: Values, slots: I64) -> Values:
        """Gather rows of every layer's own KV, inside the runtime."""
        feeds = {"rows": self._put(slots), **own}
        values = self._runner.run(GATHER, self._names.grown, feeds)
        return _rename(values, self._names.grown, self._names.own)

    def _run_lm(
        self, wanted: Sequence[str], picture: PictureValues, x: F32, own: Values | None
    ) -> tuple[dict[str, Value], Values]:
        past = own if own is not None else self._make_empty(self._names.own, rows=x.shape[0])
        feeds = {"x": self._put(x), **picture.prefix, **past}
        values = self._runner.run(LM, (*wanted, *self._names.grown), feeds)
        return values, _rename(values, self._names.grown, self._names.own)

    def _put(self, array: npt.NDArray[Any]) -> Value:
        return self._runner.put(np.ascontiguousarray(array))

    def _make_empty(self, names: Iterable[str], *, rows: int = 1) -> dict[str, Value]:
        value = self._put(np.zeros((self._heads, rows, 0, self._head_dim), np.float32))
        return dict.fromkeys(names, value)


def _rename(values: Values, old: Iterable[str], new: Iterable[str]) -> dict[str, Value]:
    return {after: values[before] for before, after in zip(old, new, strict=True)}
