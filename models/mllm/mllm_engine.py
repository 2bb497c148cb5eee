"""`ureca-mllm` behind the `Engine` protocol, so that node, bench and evaluation accept it.

Imports torch: the node reaches this file only when a bundle asks for it
(`models/runtime/load.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ureca.attributes import ATTRIBUTES, AttributeAnswer
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

_SAID = frozenset({"eos", "length"})
"""Ends of a row that has a text."""


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
        return self._caption_and_answer(frame, regions, aborted)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes for which the captioner has an instruction."""
        return tuple(name for name in self.config.prompt.attributes if name in ATTRIBUTES)

    def read_attributes(
        self,
        frame: MllmEncodedPicture,
        regions: Sequence[RegionInput],
        *,
        aborted: Callable[[int], bool] = never,
    ) -> list[tuple[AttributeAnswer, ...]]:
        """Ask for each attribute with its own instruction; see `AttributeEngine.read_attributes`.
        Answers have no probability: none is calibrated.
        """
        known = self.attributes
        rows = [(n, name) for n, r in enumerate(regions) for name in r.attributes if name in known]
        found: list[list[AttributeAnswer]] = [[] for _ in regions]
        size = self._info.max_regions
        for part in (rows[at : at + size] for at in range(0, len(rows), size)):
            texts = self._read_texts(frame, regions, part, aborted)
            for row, (number, name) in enumerate(part):
                if row in texts:
                    found[number].append(_make_answer(name, texts[row]))
        return [tuple(answers) for answers in found]

    def _read_texts(
        self,
        frame: MllmEncodedPicture,
        regions: Sequence[RegionInput],
        rows: Sequence[tuple[int, str]],
        aborted: Callable[[int], bool],
    ) -> dict[int, str]:
        """Return the texts of one batch by row; a row is the number of a region, and what is asked
        of it. Rows without a text are left out.
        """
        asked, limit = [regions[number] for number, _ in rows], self._info.max_regions
        check_regions(asked, height_px=frame.height_px, width_px=frame.width_px, max_regions=limit)
        names = [name for _, name in rows]
        done = self._decode(frame, asked, lambda row: aborted(rows[row][0]), names)
        return {e.row: e.text for e in done if isinstance(e, RowDone) and e.stop in _SAID}

    def _caption_and_answer(
        self,
        frame: MllmEncodedPicture,
        regions: Sequence[RegionInput],
        aborted: Callable[[int], bool],
    ) -> Iterator[RowDelta | RowDone]:
        """Rows whose attributes are asked for end last: all attributes are read together."""
        held: list[RowDone] = []
        for event in self._decode(frame, regions, aborted):
            if isinstance(event, RowDone) and event.stop in _SAID and regions[event.row].attributes:
                held.append(event)
            else:
                yield event
        chosen = [regions[event.row] for event in held]
        answers = self.read_attributes(frame, chosen, aborted=lambda n: aborted(held[n].row))
        for event, told in zip(held, answers, strict=True):
            yield replace(event, attributes=told)

    def _decode(
        self,
        frame: MllmEncodedPicture,
        regions: Sequence[RegionInput],
        aborted: Callable[[int], bool],
        attributes: Sequence[str] = (),
    ) -> Iterator[RowDelta | RowDone]:
        limit = self._info.max_new_tokens
        plans = [RowPlan(i, min(r.max_new_tokens, limit)) for i, r in enumerate(regions)]
        batch = _MllmBatch(self, frame, regions, attributes)
        return decode(batch, plans, self._words, eos_id=self.prompt.stop_ids[0], aborted=aborted)

    @torch.inference_mode()
    def make_suffixes(
        self,
        frame: MllmEncodedPicture,
        regions: Sequence[RegionInput],
        attributes: Sequence[str] = (),
    ) -> list[Tensor]:
        """Return every region's own prompt [1, L, d]. `attributes`: what each is asked for, in
        place of a caption. Regions with one mask are encoded once.
        """
        names = attributes or [""] * len(regions)
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
                self.prompt.encode_suffix(region.style, mask_tokens=count, attribute=attribute),
                found[id(region.mask)],
            )
            for region, attribute in zip(regions, names, strict=True)
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
        self,
        engine: MllmEngine,
        frame: MllmEncodedPicture,
        regions: Sequence[RegionInput],
        attributes: Sequence[str],
    ) -> None:
        self._engine, self._frame, self._regions = engine, frame, regions
        self._attributes = attributes
        self._rows = engine.make_batch(frame)
        self._gen_ns = 0

    def start(self, rows: I64) -> Choice:
        """Run the prompts of `rows` in one pass."""
        began_ns = time.perf_counter_ns()
        chosen = [self._regions[row] for row in rows]
        names = [self._attributes[row] for row in rows] if self._attributes else []
        prompts = self._engine.make_suffixes(self._frame, chosen, names)
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


def _make_answer(name: str, text: str) -> AttributeAnswer:
    """An empty answer abstains."""
    if text:
        return AttributeAnswer(name=name, status="said", text=text)
    return AttributeAnswer(name=name, status="abstained")


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
    info = describe_checkpoint(model, bundle=bundle)
    return MllmEngine(model, TextTokenizer.load(folder / TOKENIZER), info=info)


def describe_checkpoint(model: Mllm, *, bundle: str = "") -> EngineInfo:
    """Return model, runtime, precision and limits of a captioner that torch runs."""
    config, package = model.config, __import__("transformers")
    return EngineInfo(
        model=config.name,
        runtime=f"transformers {package.__version__} torch {torch.__version__} {model.device}",
        precision=config.precision,
        bundle_sha=bundle,
        max_regions=config.max_regions,
        max_new_tokens=config.max_new_tokens,
    )


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
