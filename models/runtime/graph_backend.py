"""The backend of every exported bundle: which tensors go into which graph, and what comes out.

A runtime adds a `Runner`, which puts values on its device and runs a graph on them. Values are
opaque here and stay on the device; only what the host must know becomes numpy.
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
    VISION,
    VISION_OUTPUTS,
    LmNames,
)

Value = Any
"""An OrtValue, a torch tensor or a device buffer; its `numpy()` is a copy on the host."""
Values = Mapping[str, Value]


class Runner(Protocol):
    """What a runtime does with graphs."""

    def put(self, array: npt.NDArray[Any]) -> Value:
        """A contiguous array as a value on the runtime's device."""

    def run(self, graph: str, outputs: Sequence[str], feeds: Values) -> dict[str, Value]:
        """The named outputs of one graph. Raises `EngineError` for inputs that do not fit."""


@dataclass(frozen=True, slots=True)
class PictureValues:
    """Values of one picture: image tokens, feature maps, and the prefix KV once filled."""

    tokens: Value
    maps: Values
    prefix: Values


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
        """Vision: image tokens and feature maps."""
        values = self._runner.run(VISION, VISION_OUTPUTS, {"pixel_values": self._put(pixels)})
        tokens = values["image_tokens"]
        if not np.isfinite(tokens.numpy()).all():
            raise EngineError(
                "vision gave numbers that are not finite for an ordinary picture: the weights are "
                "damaged; export the checkpoint again"
            )
        return PictureValues(tokens, {name: values[name] for name in MAPS}, {})

    def prefill(self, picture: PictureValues) -> PictureValues:
        """The prefix pass is a step of one row with nothing before it: its own KV is the prefix."""
        feeds = {
            "x": picture.tokens,
            **self._empty(self._names.prefix),
            **self._empty(self._names.own),
        }
        values = self._runner.run(LM, self._names.grown, feeds)
        return replace(picture, prefix=_renamed(values, self._names.grown, self._names.prefix))

    def regions(self, picture: PictureValues, masks: F32, boxes: F32) -> F32:
        """Region tokens f32 [N, K, d]."""
        feeds = {"masks": self._put(masks), "boxes": self._put(boxes), **picture.maps}
        values = self._runner.run(REGIONS, ["region_tokens"], feeds)
        return np.asarray(values["region_tokens"].numpy())

    def embed(self, ids: I64) -> F32:
        """Rows of the embedding table."""
        return self._embeddings[ids]

    def step(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[Choice, Values]:
        """One pass of the language model; only ids and log-probabilities become numpy."""
        values, grown = self._lm(("argmax", "logprob"), picture, x, own)
        return Choice(values["argmax"].numpy()[:, 0], values["logprob"].numpy()[:, 0]), grown

    def logits(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[F32, Values]:
        """As `step`, but the whole row of logits f32 [N, V]: what parity reports compare."""
        values, grown = self._lm(("logits",), picture, x, own)
        return np.asarray(values["logits"].numpy(), np.float32), grown

    def bare(self, picture: PictureValues) -> PictureValues:
        """The picture with an empty prefix, for runs that bring the image tokens along."""
        return replace(picture, prefix=self._empty(self._names.prefix))

    def keep(self, own: Values, slots: I64) -> Values:
        """Gather rows of every layer's own KV, inside the runtime."""
        feeds = {"rows": self._put(slots), **own}
        values = self._runner.run(GATHER, self._names.grown, feeds)
        return _renamed(values, self._names.grown, self._names.own)

    def _lm(
        self, wanted: Sequence[str], picture: PictureValues, x: F32, own: Values | None
    ) -> tuple[dict[str, Value], Values]:
        past = own if own is not None else self._empty(self._names.own, rows=x.shape[0])
        feeds = {"x": self._put(x), **picture.prefix, **past}
        values = self._runner.run(LM, (*wanted, *self._names.grown), feeds)
        return values, _renamed(values, self._names.grown, self._names.own)

    def _put(self, array: npt.NDArray[Any]) -> Value:
        return self._runner.put(np.ascontiguousarray(array))

    def _empty(self, names: Iterable[str], *, rows: int = 1) -> dict[str, Value]:
        value = self._put(np.zeros((self._heads, rows, 0, self._head_dim), np.float32))
        return dict.fromkeys(names, value)


def _renamed(values: Values, old: Iterable[str], new: Iterable[str]) -> dict[str, Value]:
    return {after: values[before] for before, after in zip(old, new, strict=True)}
