"""The common interface of all runtimes that caption regions.

An engine encodes a frame once (`encode`) and captions any number of its regions in one batch
(`caption`); the image prefix inside `EncodedFrame` is shared by all of them. Engines are used from
one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes

EncodedFrame = Any
"""What `encode` returns; its content is private to the engine."""


def never(row: int) -> bool:  # noqa: ARG001  (the signature of `aborted`)
    """The default for `aborted`: no row is ever cancelled."""
    return False


class Engine(Protocol):
    """Captions regions of frames."""

    @property
    def info(self) -> EngineInfo:
        """Model, runtime, precision, bundle hash and limits."""

    @property
    def times(self) -> StageTimes:
        """Durations of the most recent `encode` and `caption` by stage."""

    def encode(self, image: Image) -> EncodedFrame:
        """Run vision and the shared prefix once. `image` is u8 [H, W, 3] RGB of any size."""

    def caption(
        self,
        frame: EncodedFrame,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """Caption all `regions` of one frame in one batch, streaming.

        Yields `RowDelta`s as text appears and exactly one `RowDone` per row, in any order of rows.
        `aborted(row)` is called before every step; an aborted row ends with `stop="aborted"`. Rows
        whose logits are not finite end with `stop="non_finite"`. Raises `EngineError` for more
        regions than `info.max_regions`.
        """
