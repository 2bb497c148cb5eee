"""Runs batches of a few fixed sizes, because a GPU runtime prepares kernels or whole engines per
shape.

A batch is padded to the next bucket with copies of its last row, whose results are dropped. The own
KV keeps the bucket's size until `keep` drops so many rows that a smaller bucket holds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.errors import EngineError
from ureca.models.config import LanguageConfig
from ureca.models.runtime.decode import F32, I64, Choice
from ureca.models.runtime.graph_backend import GraphBackend, PictureValues, Runner, Values


class BucketBackend(GraphBackend):
    """As `GraphBackend`; `buckets` ascend and the last one is the largest batch."""

    def __init__(
        self,
        runner: Runner,
        *,
        embeddings: npt.NDArray[np.float16] | F32,
        language: LanguageConfig,
        buckets: Sequence[int],
    ) -> None:
        super().__init__(runner, embeddings=embeddings, language=language)
        self._buckets = tuple(buckets)

    def regions(self, picture: PictureValues, masks: F32, boxes: F32) -> F32:
        """Region tokens f32 [N, K, d]."""
        return super().regions(picture, self._pad_to_bucket(masks), self._pad_to_bucket(boxes))[
            : len(masks)
        ]

    def step(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[Choice, Values]:
        """Run one pass of the language model; return the choices of the real rows."""
        choice, grown = super().step(picture, self._pad_to_bucket(x), own)
        return Choice(choice.ids[: len(x)], choice.logprob[: len(x)]), grown

    def logits(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[F32, Values]:
        """Run one pass of the language model; return the logits of the real rows."""
        logits, grown = super().logits(picture, self._pad_to_bucket(x), own)
        return logits[: len(x)], grown

    def score(self, picture: PictureValues, x: F32, targets: I64, own: Values) -> F32:
        """Log-probabilities of the real rows; `own` has the bucket's size already."""
        return super().score(picture, self._pad_to_bucket(x), self._pad_to_bucket(targets), own)[
            : len(x)
        ]

    def own(self, keys_values: F32) -> Values:
        """An own KV of as many rows as the bucket holds."""
        rows = np.moveaxis(keys_values, 2, 0)
        return super().own(np.moveaxis(self._pad_to_bucket(rows), 0, 2))

    def keep(self, own: Values, slots: I64) -> Values:
        """Gather as many rows as the bucket of `slots` holds."""
        return super().keep(own, self._pad_to_bucket(slots))

    def _pad_to_bucket(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        size = next((bucket for bucket in self._buckets if bucket >= len(rows)), None)
        if size is None:
            raise EngineError(
                f"expected at most {self._buckets[-1]} rows, the bundle's largest bucket, got "
                f"{len(rows)}: split the call, or export with larger --buckets"
            )
        return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
