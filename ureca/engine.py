"""The common interface of all runtimes that caption regions.

An engine encodes a frame once (`encode`) and captions any number of its regions in one batch
(`caption`); the image prefix inside `EncodedFrame` is shared by all of them. Some engines also say
how well given texts fit the regions (`ScoringEngine`). Engines are used from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from ureca.attributes import AttributeAnswer
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


@dataclass(frozen=True, slots=True)
class TextScores:
    """How well T texts fit N regions.

    `bag` f32 [T, N]: bag-of-words score, nats per content word. `fit` f32 [T, N]: log P(text |
    region) - log P0(text), nats per token; NaN where it was not computed. `tokens` i32 [T]: length
    of each text. P0 is the text's probability for regions of other pictures; `usual` f32 [T] is
    log P0(text) in nats per token, NaN where no fit was computed. `clarity` f32 [N, 3]: how plainly
    a region says any word: its highest bag score, its highest log-probability, and the negative
    entropy of its words. Both are None from engines without them.
    """

    bag: npt.NDArray[np.float32]
    fit: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.int32]
    usual: npt.NDArray[np.float32] | None = None
    clarity: npt.NDArray[np.float32] | None = None


class ScoringEngine(Engine, Protocol):
    """An engine that also reads its captioner backwards: how well does a text fit a region?"""

    def score(
        self,
        frame: EncodedFrame,
        regions: Sequence[RegionInput],
        texts: Sequence[str],
        *,
        max_fit: int = 8,
        order: npt.NDArray[np.float32] | None = None,
    ) -> TextScores:
        """Score all `texts` for all `regions` of one frame.

        `bag` is computed for every region, `fit` for the `max_fit` regions with the highest `order`
        f32 [T, N] (by default `bag`), at most for `info.max_regions`. There may be more `regions`
        than that. Raises `RegionError` for a mask that does not fit the frame.
        """


class AttributeEngine(Engine, Protocol):
    """An engine that answers attributes of regions; `caption` then fills `RowDone.attributes`."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names that it answers, of `ureca.attributes.ATTRIBUTES`; never empty."""

    def read_attributes(
        self, frame: EncodedFrame, regions: Sequence[RegionInput]
    ) -> list[tuple[AttributeAnswer, ...]]:
        """Answer the `attributes` of each of the `regions` of one frame, without a caption, as far
        as the engine can. There may be more regions than `info.max_regions`. Raises `RegionError`
        for a mask that does not fit the frame.
        """


class RemoteEngine(Engine, Protocol):
    """An engine that asks a server, and keeps accounts of it."""

    @property
    def answers_within_s(self) -> float:
        """A region without an answer after this fails."""

    def summarise(self) -> str:
        """Requests, failures, tokens and cost so far, in one line."""


def is_remote(engine: Engine) -> TypeGuard[RemoteEngine]:
    """Whether the engine asks a server."""
    return callable(getattr(engine, "summarise", None))


def supports_scoring(engine: Engine) -> TypeGuard[ScoringEngine]:
    """Whether the engine has `score`: its bundle holds the score graph and grounding weights."""
    return callable(getattr(engine, "score", None))


def supports_attributes(engine: Engine) -> TypeGuard[AttributeEngine]:
    """Whether the engine answers attributes: its bundle has a section `attributes`."""
    return bool(getattr(engine, "attributes", ()))
