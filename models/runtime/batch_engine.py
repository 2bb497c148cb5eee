"""The `Engine` of every runtime: checks, prompt assembly and timing around a small `Backend`.

A backend runs three graphs and copies no data by itself. Its image, prefix and own KV are opaque
here and stay where the backend keeps them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from ureca.attributes import AttributeAnswer
from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import never
from ureca.errors import EngineError
from ureca.models.config import CaptionerConfig, VisionConfig
from ureca.models.preprocess import Grid, choose_grid, make_pixel_tiles
from ureca.models.runtime.attributes import CATEGORY, AttributeReader, answer_category
from ureca.models.runtime.decode import F32, I64, Choice, RowPlan, decode
from ureca.models.runtime.region_inputs import check_regions, make_region_arrays
from ureca.models.tokenizer import EOS_ID, Tokenizer

_NO_CAPTION = frozenset({"aborted", "non_finite"})
"""Ends of a row without a caption."""
Picture = TypeVar("Picture")
Own = TypeVar("Own")


class Backend(Protocol[Picture, Own]):
    """The operations of a runtime. `Picture` holds maps and the prefix KV, `Own` the KV of a
    batch.
    """

    def encode(self, pixels: F32) -> Picture:
        """Run vision on the tiles f32 [T, 3, S, S] of one image."""

    def prefill(self, picture: Picture) -> Picture:
        """Run the language model over the image tokens: the KV that all regions share."""

    def regions(self, picture: Picture, masks: F32, boxes: F32) -> F32:
        """masks f32 [N, T, M, M], boxes f32 [N, 4] -> region tokens f32 [N, K, d]."""

    def embed(self, ids: I64) -> F32:
        """Token ids [...] -> f32 [..., d]."""

    def step(self, picture: Picture, x: F32, own: Own | None) -> tuple[Choice, Own]:
        """Run x f32 [N, T, d] after the prefix and `own` (None: nothing yet)."""

    def read(self, picture: Picture, x: F32) -> Own:
        """The own KV of x f32 [N, T, d] after the prefix, for `keep` and `score`."""

    def keep(self, own: Own, slots: I64) -> Own:
        """Gather rows of the own KV."""

    def score(self, picture: Picture, x: F32, targets: I64, own: Own) -> F32:
        """Given texts x f32 [N, T, d] after the prefix and `own` -> log-probability of every
        target f32 [N, T]; only where the bundle has the graph `score`.
        """

    def own(self, keys_values: F32) -> Own:
        """An own KV from numbers: f32 [2 * layers, H, N, S, hd], keys of all layers first."""

    def drop_prefix(self, picture: Picture) -> Picture:
        """The picture with an empty prefix."""


@dataclass(frozen=True, slots=True)
class EncodedPicture(Generic[Picture]):
    """One encoded frame. Only the engine that made it may read `inner`."""

    inner: Picture
    grid: Grid
    height_px: int
    width_px: int


class BatchEngine(Generic[Picture, Own]):
    """Implements `ureca.engine.Engine` over a backend."""

    def __init__(
        self,
        backend: Backend[Picture, Own],
        *,
        config: CaptionerConfig,
        tokenizer: Tokenizer,
        info: EngineInfo,
        attributes: AttributeReader | None = None,
    ) -> None:
        self._attributes = attributes
        self._backend = backend
        self._vision = config.vision
        self._tokenizer = tokenizer
        self._info = info
        self._us: dict[str, int] = {}

    @property
    def info(self) -> EngineInfo:
        """Model, runtime, precision, bundle hash and limits."""
        return self._info

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that `caption` and `read_attributes` answer; empty without weights."""
        return () if self._attributes is None else self._attributes.names

    @property
    def times(self) -> StageTimes:
        """Microseconds of the last calls.

        `prep`, `vit`, `prefill` of `encode`; of `caption`: `region` (mask tiling and region
        tokens), `ttft` (from the call to the first chosen tokens) and `gen` (all steps with the
        prompt's, without the time that the consumer of the stream takes).
        """
        return StageTimes(dict(self._us))

    def encode(self, image: Image) -> EncodedPicture[Picture]:
        """Run vision and the shared prefix once. `image` is u8 [H, W, 3] RGB of any size."""
        began_ns = time.perf_counter_ns()
        height_px, width_px = image.shape[:2]
        vision = self._vision
        grid = choose_grid(width_px, height_px, tile_px=vision.tile_px, max_tiles=vision.max_tiles)
        pixels = make_pixel_tiles(image, grid, vision)
        prepared_ns = time.perf_counter_ns()
        picture = self._backend.encode(pixels)
        seen_ns = time.perf_counter_ns()
        picture = self._backend.prefill(picture)
        self._us["prep"] = (prepared_ns - began_ns) // 1000
        self._us["vit"] = (seen_ns - prepared_ns) // 1000
        self._us["prefill"] = (time.perf_counter_ns() - seen_ns) // 1000
        return EncodedPicture(picture, grid, height_px, width_px)

    def caption(
        self,
        frame: EncodedPicture[Picture],
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """Caption all `regions` in one batch; see `ureca.engine.Engine.caption`.

        `max_new_tokens` of a row is capped at `info.max_new_tokens`. Raises `EngineError` or
        `RegionError` at the call, before anything is yielded, when a row cannot be captioned.
        """
        check_regions(
            regions,
            height_px=frame.height_px,
            width_px=frame.width_px,
            max_regions=self._info.max_regions,
        )
        if not regions:
            return iter(())
        limit = self._info.max_new_tokens
        plans = [RowPlan(i, min(r.max_new_tokens, limit)) for i, r in enumerate(regions)]
        batch = PromptedBatch(self._backend, frame, regions, vision=self._vision, us=self._us)
        outputs = decode(batch, plans, self._tokenizer, eos_id=EOS_ID, aborted=aborted)
        judged = self._judge(frame, regions, batch, outputs)
        return self._answer(regions, batch, judged) if _asks(regions) else judged

    def read_attributes(
        self, frame: EncodedPicture[Picture], regions: Sequence[RegionInput]
    ) -> list[tuple[AttributeAnswer, ...]]:
        """See `ureca.engine.AttributeEngine.read_attributes`. The category needs a caption."""
        reader = self._attributes
        if reader is None or not regions:
            return [()] * len(regions)
        return reader.read(self.read_tokens(frame, regions), regions)

    def read_tokens(self, frame: EncodedPicture[Picture], regions: Sequence[RegionInput]) -> F32:
        """Region tokens f32 [N, K, d] of one region or more. Raises `RegionError` for a mask that
        does not fit the frame.
        """
        size, chunks = self._info.max_regions, []
        for start in range(0, len(regions), size):
            chunk = regions[start : start + size]
            height_px, width_px = frame.height_px, frame.width_px
            check_regions(chunk, height_px=height_px, width_px=width_px, max_regions=size)
            arrays = make_region_arrays(chunk, grid=frame.grid, vision=self._vision)
            chunks.append(self._backend.regions(frame.inner, arrays.masks, arrays.boxes))
        return np.concatenate(chunks)

    def _answer(
        self,
        regions: Sequence[RegionInput],
        batch: PromptedBatch[Picture, Own],
        outputs: Iterator[RowDelta | RowDone],
    ) -> Iterator[RowDelta | RowDone]:
        """Add the answers to the attributes of every row that has a caption."""
        answers: list[tuple[AttributeAnswer, ...]] | None = None
        for out in outputs:
            if self._attributes is None or isinstance(out, RowDelta) or out.stop in _NO_CAPTION:
                yield out
                continue
            if answers is None:
                started = [regions[row] for row in batch.rows]
                answers = self._attributes.read(batch.tokens, started)
            told = answers[int(np.searchsorted(batch.rows, out.row))]
            if CATEGORY in regions[out.row].attributes:
                told = (answer_category(out.text, out.confidence), *told)
            yield replace(out, attributes=told)

    def _judge(
        self,
        frame: EncodedPicture[Picture],
        regions: Sequence[RegionInput],
        batch: PromptedBatch[Picture, Own],
        outputs: Iterator[RowDelta | RowDone],
    ) -> Iterator[RowDelta | RowDone]:
        """Add what this engine knows of captions besides their tokens: here nothing."""
        return outputs


def _asks(regions: Sequence[RegionInput]) -> bool:
    return any(region.attributes for region in regions)


class PromptedBatch(Generic[Picture, Own]):
    """The `DecodingBatch` of one caption call: prompt assembly and timing. `rows` i64 [n] are the
    rows that were started, `tokens` f32 [n, K, d] their regions' tokens.
    """

    def __init__(
        self,
        backend: Backend[Picture, Own],
        frame: EncodedPicture[Picture],
        regions: Sequence[RegionInput],
        *,
        vision: VisionConfig,
        us: dict[str, int],
    ) -> None:
        self._backend = backend
        self._frame = frame
        self._regions = regions
        self._vision = vision
        self._us = us
        self._own: Own | None = None
        self._gen_ns = 0
        self.rows: I64 = np.empty(0, np.int64)
        self.tokens: F32 = np.empty((0, 0, 0), np.float32)

    def start(self, rows: I64) -> Choice:
        """Run region tokens and start tokens of `rows` in one pass."""
        began_ns = time.perf_counter_ns()
        chosen = [self._regions[row] for row in rows]
        arrays = make_region_arrays(chosen, grid=self._frame.grid, vision=self._vision)
        tokens = self._backend.regions(self._frame.inner, arrays.masks, arrays.boxes)
        self.rows, self.tokens = rows, tokens
        ids = np.array([[Tokenizer.start_id(region.style)] for region in chosen], np.int64)
        x = np.concatenate([tokens, self._backend.embed(ids)], axis=1)
        self._us["region"] = (time.perf_counter_ns() - began_ns) // 1000
        choice = self._run(x)
        self._us["ttft"] = (time.perf_counter_ns() - began_ns) // 1000
        return _refuse_non_finite(choice, tokens)

    def step(self, ids: I64) -> Choice:
        """Run one more token for every row of the batch."""
        return self._run(self._backend.embed(ids[:, None]))

    def keep(self, slots: I64) -> None:
        """Drop the KV of the other rows."""
        if self._own is None:
            raise EngineError("rows can be dropped only after the prompt has run")
        self._own = self._backend.keep(self._own, slots)

    def _run(self, x: F32) -> Choice:
        began_ns = time.perf_counter_ns()
        choice, self._own = self._backend.step(self._frame.inner, x, self._own)
        self._gen_ns += time.perf_counter_ns() - began_ns
        self._us["gen"] = self._gen_ns // 1000
        return choice


def _refuse_non_finite(choice: Choice, tokens: F32) -> Choice:
    """Raise for non-finite values. Region tokens are checked, too, because quantised graphs may
    convert NaN to ordinary numbers.
    """
    healthy = np.isfinite(tokens).all(axis=(1, 2))
    return Choice(choice.ids, np.where(healthy, choice.logprob, np.float32(np.nan)))
