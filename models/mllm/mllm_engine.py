"""`ureca-mllm` behind the `Engine` protocol, so that node, bench and evaluation accept it.

Imports torch: the node reaches this file only when a bundle asks for it
(`models/runtime/load.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ureca.bundle import BundleManifest, bundle_sha, verify_files
from ureca.datatypes import EngineInfo, Image, RegionInput, RowDelta, RowDone, StageTimes
from ureca.engine import never
from ureca.errors import BundleError, EngineError, WeightsError
from ureca.models.mllm.backend import SuffixBatch, choose, make_prefix_input, make_suffix_input
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER, load_checkpoint
from ureca.models.mllm.config import MllmConfig
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.network.prefix_attention import Prefix
from ureca.models.mllm.prompt import I64, CaptionPrompt, TextTokenizer
from ureca.models.preprocess import Grid
from ureca.models.runtime.decode import Choice, RowPlan, decode
from ureca.models.runtime.region_inputs import check_regions
from ureca.models.runtime.self_test import GOLDEN, run_self_test


@dataclass(frozen=True, slots=True)
class MllmEncodedPicture:
    """One encoded frame: its image tokens [T * p, d], the maps for its regions, and the keys and
    values of its prefix.
    """

    image_tokens: Tensor
    maps: Any
    prefix: Prefix
    goes_on: int
    """The position of the first token behind the prefix."""
    grid: Grid
    height_px: int
    width_px: int


class MllmEngine:
    """Implements `ureca.engine.Engine`."""

    def __init__(self, model: Mllm, words: TextTokenizer, *, info: EngineInfo) -> None:
        self.model, self._words, self._info = model.eval(), words, info
        self._tiler = ImageTiler.of(model.config)
        self.prompt = make_prompt(model, words)
        self._us: dict[str, int] = {}

    @property
    def config(self) -> MllmConfig:
        """The captioner's configuration."""
        return self.model.config

    @property
    def info(self) -> EngineInfo:
        """Model, runtime, precision, bundle hash and limits."""
        return self._info

    @property
    def times(self) -> StageTimes:
        """Microseconds of the last calls, by the names of `models/runtime/batch_engine.py`."""
        return StageTimes(dict(self._us))

    @torch.inference_mode()
    def encode(self, image: Image) -> MllmEncodedPicture:
        """Run vision and the shared prefix once. `image` is u8 [H, W, 3] RGB of any size."""
        began_ns = time.perf_counter_ns()
        height_px, width_px = image.shape[:2]
        grid = self._tiler.choose_grid(width_px, height_px)
        tiles = torch.from_numpy(self._tiler.make_pixel_tiles(image, grid))
        prepared_ns = time.perf_counter_ns()
        tokens, maps = self.model.encode_picture(tiles)
        if not bool(torch.isfinite(tokens).all()):
            raise EngineError("vision gave numbers that are not finite: the weights are damaged")
        seen_ns = time.perf_counter_ns()
        first = make_prefix_input(self.model, self.prompt, grid, tokens)
        prefix = self.model.make_prefix(first)
        self._us["prep"] = (prepared_ns - began_ns) // 1000
        self._us["vit"] = (seen_ns - prepared_ns) // 1000
        self._us["prefill"] = (time.perf_counter_ns() - seen_ns) // 1000
        return MllmEncodedPicture(tokens, maps, prefix, first.goes_on, grid, height_px, width_px)

    def caption(
        self,
        frame: MllmEncodedPicture,
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
        stop = self.prompt.stop_ids[0]
        batch = _MllmBatch(self, frame, regions)
        return decode(batch, plans, self._words, eos_id=stop, aborted=aborted)

    @torch.inference_mode()
    def make_suffixes(
        self, frame: MllmEncodedPicture, regions: Sequence[RegionInput]
    ) -> list[Tensor]:
        """Return every region's own prompt [1, L, d]."""
        different = list({id(region.mask): region.mask for region in regions}.values())
        masks = torch.from_numpy(self._tiler.make_mask_tiles(different, frame.grid))
        said = self.model.encode_tower_regions(masks, frame.maps)
        tokens = self.model.regions(masks, frame.image_tokens, said)
        found = dict(zip(map(id, different), tokens, strict=True))
        count = tokens.shape[1]
        return [
            make_suffix_input(
                self.model,
                self.prompt,
                self.prompt.encode_suffix(region.style, mask_tokens=count),
                found[id(region.mask)],
            )
            for region in regions
        ]

    def make_batch(self, frame: MllmEncodedPicture) -> SuffixBatch:
        """Return an empty batch after the frame's prefix."""
        return SuffixBatch(self.model, frame.prefix, frame.goes_on)

    def time_stages(self, **us: int) -> None:
        """Record stage times."""
        self._us.update(us)


class _MllmBatch:
    """The `DecodingBatch` of one caption call."""

    def __init__(
        self, engine: MllmEngine, frame: MllmEncodedPicture, regions: Sequence[RegionInput]
    ) -> None:
        self._engine, self._frame, self._regions = engine, frame, regions
        self._rows = engine.make_batch(frame)
        self._gen_ns = 0

    def start(self, rows: I64) -> Choice:
        """Run the prompts of `rows` in one pass."""
        began_ns = time.perf_counter_ns()
        chosen = [self._regions[row] for row in rows]
        prompts = self._engine.make_suffixes(self._frame, chosen)
        self._engine.time_stages(region=(time.perf_counter_ns() - began_ns) // 1000)
        choice = self._timed(lambda: self._rows.start(prompts))
        self._engine.time_stages(ttft=(time.perf_counter_ns() - began_ns) // 1000)
        return choice

    def step(self, ids: I64) -> Choice:
        """Run one more token for every row of the batch."""
        return self._timed(lambda: self._rows.step(ids))

    def keep(self, slots: I64) -> None:
        """Drop the other rows."""
        self._rows.keep(slots)

    def _timed(self, run: Callable[[], Tensor]) -> Choice:
        began_ns = time.perf_counter_ns()
        choice = choose(run(), self._engine.prompt.stop_ids)
        self._gen_ns += time.perf_counter_ns() - began_ns
        self._engine.time_stages(gen=self._gen_ns // 1000)
        return choice


def make_prompt(model: Mllm, words: TextTokenizer) -> CaptionPrompt:
    """Return the prompt of a captioner. Raises `WeightsError` for a tokenizer without its
    tokens.
    """
    config = model.config
    return CaptionPrompt(
        words,
        config.prompt,
        layout=model.family.layout,
        tokens_per_tile=0 if model.family.own_tokens else config.picture.tokens_per_tile,
    )


def open_checkpoint(folder: Path, *, device: str = "auto", bundle: str = "") -> MllmEngine:
    """Open the engine over a checkpoint (or the checkpoint inside a bundle)."""
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    model = load_checkpoint(folder, device=where)
    config = model.config
    package = __import__("transformers")
    info = EngineInfo(
        model=config.name,
        runtime=f"transformers {package.__version__} torch {torch.__version__} {where}",
        precision=config.precision,
        bundle_sha=bundle,
        max_regions=config.max_regions,
        max_new_tokens=config.max_new_tokens,
    )
    return MllmEngine(model, TextTokenizer.load(folder / TOKENIZER), info=info)


def open_bundle(folder: Path, manifest: BundleManifest, *, threads: int | None) -> MllmEngine:
    """Verify every file, load, warm up and self-test. Raises `BundleError` with the remedy."""
    verify_files(folder, manifest)
    if threads:
        torch.set_num_threads(threads)
    try:
        engine = open_checkpoint(folder, bundle=bundle_sha(manifest))
        frame = engine.encode(np.full((64, 64, 3), 128, np.uint8))
        list(engine.caption(frame, [RegionInput(np.ones((64, 64), np.bool_), max_new_tokens=2)]))
    except WeightsError as error:
        raise BundleError(f"the bundle {folder} does not run: {error}") from error
    if any(spec.file == GOLDEN for spec in manifest.extra_files):
        run_self_test(engine, folder)
    return engine
