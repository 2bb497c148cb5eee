"""Batches of a few fixed sizes: a GPU runtime prepares kernels or whole engines per shape.

A batch is filled up to the next bucket with copies of its last row, whose answers are dropped. The
own KV keeps the bucket's size until `keep` drops so many rows that a smaller one does.
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
    """As `GraphBackend`; `buckets` ascend and the last holds the largest batch."""

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
        return super().regions(picture, self._filled(masks), self._filled(boxes))[: len(masks)]

    def step(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[Choice, Values]:
        """One pass of the language model, and the choices of the real rows."""
        choice, grown = super().step(picture, self._filled(x), own)
        return Choice(choice.ids[: len(x)], choice.logprob[: len(x)]), grown

    def logits(self, picture: PictureValues, x: F32, own: Values | None) -> tuple[F32, Values]:
        """One pass of the language model, and the logits of the real rows."""
        logits, grown = super().logits(picture, self._filled(x), own)
        return logits[: len(x)], grown

    def keep(self, own: Values, slots: I64) -> Values:
        """Gather as many rows as the bucket of `slots` holds."""
        return super().keep(own, self._filled(slots))

    def _filled(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        size = next((bucket for bucket in self._buckets if bucket >= len(rows)), None)
        if size is None:
            raise EngineError(
                f"expected at most {self._buckets[-1]} rows, the bundle's largest bucket, got "
                f"{len(rows)}: split the call, or export with larger --buckets"
            )
        return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
