"""An engine that remembers the scores of its last frame: who asks again does not pay again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import EncodedFrame, ScoringEngine, TextScores, never

_Key = tuple[tuple[int, ...], tuple[str, ...], int, bytes]


class RememberingEngine:
    """A `ScoringEngine` over another one; the last frame's scores are kept.

    Masks are told apart by identity: a caller that asks again passes the same arrays.
    """

    def __init__(self, engine: ScoringEngine) -> None:
        self._engine = engine
        self._kept: dict[_Key, tuple[TextScores, Sequence[RegionInput]]] = {}

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return self._engine.info

    @property
    def times(self) -> StageTimes:
        """See `Engine.times`."""
        return self._engine.times

    def caption(
        self,
        frame: EncodedFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """See `Engine.caption`."""
        return self._engine.caption(frame, regions, aborted=aborted)

    def encode(self, image: Image) -> EncodedFrame:
        """See `Engine.encode`; what was kept is dropped."""
        self._kept.clear()
        return self._engine.encode(image)

    def score(
        self,
        frame: EncodedFrame,
        regions: Sequence[RegionInput],
        texts: Sequence[str],
        *,
        max_fit: int = 8,
        order: npt.NDArray[np.float32] | None = None,
    ) -> TextScores:
        """See `ScoringEngine.score`."""
        ranks = b"" if order is None else order.tobytes()
        key = (tuple(id(region.mask) for region in regions), tuple(texts), max_fit, ranks)
        if key not in self._kept:
            scores = self._engine.score(frame, regions, texts, max_fit=max_fit, order=order)
            self._kept[key] = scores, regions  # the masks stay alive, so that no id is used again
        return self._kept[key][0]
