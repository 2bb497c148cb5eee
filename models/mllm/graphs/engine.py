"""The exported graphs of a full-size captioner behind the `Engine` protocol.

What `models/mllm/mllm_engine.py` does with torch this does with a bundle's graphs: it has the same
prompts, tiles and token loop. It imports no torch, so the node runs it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ureca.bundle import BundleManifest, LanguageSpec, bundle_sha, verify_files
from ureca.config import from_plain
from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import never
from ureca.errors import BundleError, ConfigError, UrecaError, WeightsError
from ureca.models.mllm.config import Layout, MllmConfig
from ureca.models.mllm.graphs.backend import LanguageBackend
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.prompt import CaptionPrompt, TextTokenizer, count_positions
from ureca.models.preprocess import Grid
from ureca.models.runtime.compatibility import (
    ONNX,
    check_compatibility,
    get_runtime_version,
    list_graph_names,
)
from ureca.models.runtime.decode import F32, I64, Choice, RowPlan, decode
from ureca.models.runtime.graph_backend import Value, Values
from ureca.models.runtime.ort import OrtRunner, count_default_threads, open_session
from ureca.models.runtime.region_inputs import check_regions
from ureca.models.runtime.self_test import GOLDEN, run_self_test


@dataclass(frozen=True, slots=True)
class GraphPicture:
    """One encoded frame: image tokens, maps, the keys and values of its prefix, and the position
    of the first token behind it.
    """

    tokens: Value
    maps: Values
    prefix: Values
    goes_on: int
    grid: Grid
    height_px: int
    width_px: int


class GraphEngine:
    """Implements `ureca.engine.Engine` over the graphs of a full-size captioner."""

    def __init__(
        self,
        backend: LanguageBackend,
        words: TextTokenizer,
        *,
        config: MllmConfig,
        spec: LanguageSpec,
        info: EngineInfo,
    ) -> None:
        self.backend, self._words, self._info, self.spec = backend, words, info, spec
        self.config = config
        self._tiler = ImageTiler.of(config)
        self._side = math.isqrt(config.picture.tokens_per_tile) if spec.axes > 1 else None
        self.prompt = CaptionPrompt(
            words,
            config.prompt,
            layout=cast("Layout", spec.layout),
            tokens_per_tile=spec.image_tokens,
        )
        self._us: dict[str, int] = {}

    @property
    def info(self) -> EngineInfo:
        """Model, runtime, precision, bundle hash and limits."""
        return self._info

    @property
    def times(self) -> StageTimes:
        """Microseconds of the last calls, by the names of `models/runtime/batch_engine.py`."""
        return StageTimes(dict(self._us))

    def encode(self, image: Image) -> GraphPicture:
        """Run vision and the shared prefix once. `image` is u8 [H, W, 3] RGB of any size."""
        began_ns = time.perf_counter_ns()
        height_px, width_px = image.shape[:2]
        grid = self._tiler.choose_grid(width_px, height_px)
        pixels = self._tiler.make_pixel_tiles(image, grid)
        prepared_ns = time.perf_counter_ns()
        tokens, maps = self.backend.encode(pixels)
        seen_ns = time.perf_counter_ns()
        prefix, goes_on = self._make_prefix(grid, tokens)
        self._us["prep"] = (prepared_ns - began_ns) // 1000
        self._us["vit"] = (seen_ns - prepared_ns) // 1000
        self._us["prefill"] = (time.perf_counter_ns() - seen_ns) // 1000
        return GraphPicture(tokens, maps, prefix, goes_on, grid, height_px, width_px)

    def caption(
        self,
        frame: GraphPicture,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> Iterator[RowDelta | RowDone]:
        """Caption all `regions` in one batch; see `ureca.engine.Engine.caption`."""
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
        batch = GraphBatch(self, frame, regions)
        return decode(batch, plans, self._words, eos_id=self.prompt.stop_ids[0], aborted=aborted)

    def make_suffixes(self, frame: GraphPicture, regions: Sequence[RegionInput]) -> list[F32]:
        """Return every region's own prompt f32 [L, d]."""
        masks = self._tiler.make_mask_tiles([r.mask for r in regions], frame.grid)
        found = self.backend.regions(masks, frame.tokens, frame.maps)
        prompts = []
        for region, tokens in zip(regions, found, strict=True):
            ids = self.prompt.encode_suffix(region.style, mask_tokens=len(tokens))
            x = self.backend.embed(ids, mark_ids=self.prompt.mark_ids)
            x[ids == self.prompt.mask_id] = tokens
            prompts.append(x)
        return prompts

    def time_stages(self, **us: int) -> None:
        """Record stage times."""
        self._us.update(us)

    def _make_prefix(self, grid: Grid, tokens: Value) -> tuple[Values, int]:
        ids = self.prompt.encode_prefix(grid)
        x, image = self.backend.embed(ids), ids == self.prompt.image_id
        x[image] = tokens.numpy()[0]
        positions, goes_on = count_positions(image, side=self._side)
        return self.backend.make_prefix(x[None], positions[:, None]), goes_on


class GraphRows:
    """A batch behind one prefix. Prompts are padded on the left, so all rows grow together."""

    def __init__(self, engine: GraphEngine, frame: GraphPicture) -> None:
        self._engine, self._frame = engine, frame
        self._own: Values | None = None
        self._length = 0
        self._padding = np.zeros(0, np.int64)

    def start(self, prompts: Sequence[F32]) -> tuple[F32, I64]:
        """Return prompts f32 [L, d] of different lengths as one input, with its positions."""
        longest = max(map(len, prompts))
        self._padding = np.array([longest - len(x) for x in prompts], np.int64)
        x = np.stack([np.pad(x, ((longest - len(x), 0), (0, 0))) for x in prompts])
        return x, self._count(longest)

    def go_on(self, ids: I64) -> tuple[F32, I64]:
        """Return one more token for each row as input, with its positions."""
        return self._engine.backend.embed(ids[:, None]), self._count(1)

    def choose(self, x: F32, positions: I64) -> Choice:
        """Run the input; return the likeliest tokens."""
        choice, self._own = self._engine.backend.step(
            self._frame.prefix, self._own, x, positions, self._padding
        )
        stops = self._engine.prompt.stop_ids
        ids = np.where(np.isin(choice.ids, stops), stops[0], choice.ids)
        return Choice(ids.astype(np.int64), choice.logprob)

    def logits(self, x: F32, positions: I64) -> F32:
        """Run the input; return logits f32 [N, V]."""
        logits, self._own = self._engine.backend.logits(
            self._frame.prefix, self._own, x, positions, self._padding
        )
        return logits

    def keep(self, slots: I64) -> None:
        """Drop all other rows."""
        assert self._own is not None
        self._own, self._padding = self._engine.backend.keep(self._own, slots), self._padding[slots]

    def _count(self, steps: int) -> I64:
        """Positions i64 [A, N, steps] of the next tokens."""
        at = np.arange(self._length, self._length + steps)
        self._length += steps
        rows = np.maximum(at[None] - self._padding[:, None], 0) + self._frame.goes_on
        return np.broadcast_to(rows, (self._engine.spec.axes, *rows.shape)).astype(np.int64)


class GraphBatch:
    """The `DecodingBatch` of one caption call."""

    def __init__(
        self, engine: GraphEngine, frame: GraphPicture, regions: Sequence[RegionInput]
    ) -> None:
        self._engine, self._frame, self._regions = engine, frame, regions
        self._rows = GraphRows(engine, frame)
        self._gen_ns = 0

    def start(self, rows: I64) -> Choice:
        """Run the prompts of `rows` in one pass."""
        began_ns = time.perf_counter_ns()
        prompts = self._engine.make_suffixes(self._frame, [self._regions[row] for row in rows])
        self._engine.time_stages(region=(time.perf_counter_ns() - began_ns) // 1000)
        healthy = np.array([bool(np.isfinite(prompt).all()) for prompt in prompts])
        choice = self._timed(*self._rows.start(prompts))
        self._engine.time_stages(ttft=(time.perf_counter_ns() - began_ns) // 1000)
        return Choice(choice.ids, np.where(healthy, choice.logprob, np.float32(np.nan)))

    def step(self, ids: I64) -> Choice:
        """Run one more token for every row of the batch."""
        return self._timed(*self._rows.go_on(ids))

    def keep(self, slots: I64) -> None:
        """Drop the other rows."""
        self._rows.keep(slots)

    def _timed(self, x: F32, positions: I64) -> Choice:
        began_ns = time.perf_counter_ns()
        choice = self._rows.choose(x, positions)
        self._gen_ns += time.perf_counter_ns() - began_ns
        self._engine.time_stages(gen=self._gen_ns // 1000)
        return choice


def make_graph_engine(
    folder: Path, manifest: BundleManifest, *, threads: int | None = None
) -> GraphEngine:
    """Verify every file and open the graphs, without warm-up and self-test. Export needs this.

    Raises `BundleError` with the remedy.
    """
    spec = manifest.language
    assert spec
    check_compatibility(folder, manifest)
    if manifest.runtime != ONNX:
        raise BundleError(f"{folder}: no engine runs a full-size captioner in {manifest.runtime}")
    paths = verify_files(folder, manifest)
    absent = [name for name in list_graph_names(ONNX) if name not in manifest.graphs]
    if absent:
        raise BundleError(f"{folder} lacks the graphs {absent}: export the checkpoint again")
    count = threads or count_default_threads()
    sessions = {
        name: open_session(paths[graph.file], threads=count)
        for name, graph in manifest.graphs.items()
    }
    try:
        config = from_plain(MllmConfig, manifest.model, where="manifest.json: model")
        words = TextTokenizer.load(paths[manifest.tokenizer.file])
        table = _open_table(paths[manifest.embeddings.file], spec.width)
        backend = LanguageBackend(OrtRunner(sessions), table=table, spec=spec)
        info = _describe_engine(manifest)
        return GraphEngine(backend, words, config=config, spec=spec, info=info)
    except (ConfigError, WeightsError) as error:
        raise BundleError(f"the bundle {folder} does not fit this version: {error}") from error


def open_bundle(folder: Path, manifest: BundleManifest, *, threads: int | None) -> GraphEngine:
    """Verify every file, load, warm up and self-test. Raises `BundleError` with the remedy."""
    engine = make_graph_engine(folder, manifest, threads=threads)
    try:
        frame = engine.encode(np.full((64, 64, 3), 128, np.uint8))
        list(engine.caption(frame, [RegionInput(np.ones((64, 64), np.bool_), max_new_tokens=2)]))
    except UrecaError as error:
        raise BundleError(f"the bundle {folder} does not run: {error}") from error
    if any(spec.file == GOLDEN for spec in manifest.extra_files):
        run_self_test(engine, folder)
    return engine


def _open_table(path: Path, width: int) -> npt.NDArray[Any]:
    """Open the table of embeddings in place: only the rows that are read come into memory."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not a table of numbers: {error}") from error
    if table.dtype not in (np.float16, np.float32) or table.ndim != 2 or table.shape[1] != width:
        raise BundleError(f"{path}: expected numbers [V, {width}], got {table.dtype} {table.shape}")
    return table


def _describe_engine(manifest: BundleManifest) -> EngineInfo:
    kinds = [manifest.graphs[name].precision for name in ("vision", "regions", "lm")]
    return EngineInfo(
        model=manifest.name,
        runtime=f"{manifest.runtime} {get_runtime_version(manifest.runtime)}",
        precision="/".join(dict.fromkeys(kinds)),
        bundle_sha=bundle_sha(manifest),
        max_regions=manifest.limits.max_regions,
        max_new_tokens=manifest.limits.max_new_tokens,
    )
