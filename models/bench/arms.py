"""The ways to caption a frame's regions that are timed against each other.

`shared`        one encode, one batch: what the node does
`naive`         the same engine, everything once per region, as models without a shared prefix must
`eager`         as `shared`, in torch without compilation
`transformers`  a causal model of the same size through `generate`, one prompt a region, in torch;
                it is even given the picture and the regions encoded once, and captions of the same
                lengths: what a user would write today, at its best
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ureca.bundle import load_manifest
from ureca.datatypes import RowDone
from ureca.engine import Engine
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.bench.scenes import Scene
from ureca.models.config import CaptionerConfig, LanguageConfig
from ureca.models.runtime.load import captioner_config, load_engine

AGAINST = ("naive", "eager", "transformers")
EXTRA = "bench"


@dataclass(frozen=True, slots=True)
class Said:
    """Captions of one frame in the order of its regions, and how many tokens each took."""

    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    us: dict[str, int] = field(default_factory=dict)
    """Microseconds by stage, where the arm knows them."""


class Arm(Protocol):
    """One way, ready to run."""

    name: str
    runtime: str
    precision: str
    bundle: str

    def __call__(self, scene: Scene, lengths: Sequence[int]) -> Said:
        """Caption one frame; `lengths` is what `shared` needed, for arms that cannot stop."""


class Shared:
    """An engine as the node uses it."""

    name = "shared"

    def __init__(self, engine: Engine, *, bundle: str) -> None:
        self.engine, self.bundle = engine, bundle
        self.runtime, self.precision = engine.info.runtime, engine.info.precision

    def __call__(self, scene: Scene, lengths: Sequence[int]) -> Said:
        """One encode, one batch."""
        ends = _ends(self.engine.caption(self.engine.encode(scene.image), scene.regions))
        return _said(ends, dict(self.engine.times.us))


class Naive(Shared):
    """The same engine without its idea."""

    name = "naive"

    def __call__(self, scene: Scene, lengths: Sequence[int]) -> Said:
        """The whole path once per region."""
        ends = []
        for region in scene.regions:
            ends += _ends(self.engine.caption(self.engine.encode(scene.image), [region]))
        return _said(ends, {})


class Eager(Shared):
    """The reference engine, in torch."""

    name = "eager"


class Transformers:
    """`generate` of a Llama of the captioner's size, one region's prompt at a time."""

    name, precision = "transformers", "fp32"

    def __init__(self, eager: Any, config: CaptionerConfig, *, bundle: str) -> None:
        self._package = require("transformers", extra=EXTRA)
        self._eager, self.bundle = eager, bundle
        self._model = _llama(self._package, config.language)
        self._prompt = config.vision.tokens_per_tile + config.regions.tokens(1) + 1
        self.runtime = f"transformers {self._package.__version__}"

    def __call__(self, scene: Scene, lengths: Sequence[int]) -> Said:
        """Picture and regions once, then one `generate` per region."""
        torch = require("torch", extra=EXTRA)
        self._eager.see(scene)
        for length in lengths:
            prompt = torch.zeros(1, self._prompt, self._model.config.hidden_size)
            with torch.inference_mode():
                self._model.generate(
                    inputs_embeds=prompt,
                    attention_mask=torch.ones(1, self._prompt, dtype=torch.long),
                    min_new_tokens=length,
                    max_new_tokens=length,
                    do_sample=False,
                    pad_token_id=0,
                )
        return Said(("",) * len(lengths), tuple(lengths))


class _Eyes:
    """Vision and region tokens of the eager engine, without its language model."""

    def __init__(self, backend: Any, config: CaptionerConfig) -> None:
        self._backend, self._vision = backend, config.vision

    def see(self, scene: Scene) -> None:
        """Encode the picture and all regions, once."""
        from ureca.models.preprocess import choose_grid, pixel_tiles
        from ureca.models.runtime.inputs import region_arrays

        height_px, width_px = scene.image.shape[:2]
        vision = self._vision
        grid = choose_grid(width_px, height_px, tile_px=vision.tile_px, max_tiles=vision.max_tiles)
        picture = self._backend.encode(pixel_tiles(scene.image, grid, vision))
        arrays = region_arrays(scene.regions, grid=grid, vision=vision)
        self._backend.regions(picture, arrays.masks, arrays.boxes)


def open_arms(
    bundles: Sequence[Path],
    *,
    against: Sequence[str],
    checkpoint: Path | None,
    threads: int | None,
) -> list[Arm]:
    """`shared` of every bundle, then what it is to be compared with.

    `checkpoint` (default: that of the first bundle) is what `eager` and `transformers` read. Raises
    `BundleError`, `ConfigError` for an unknown arm, `MissingExtraError` for a missing package.
    """
    unknown = sorted(set(against) - set(AGAINST))
    if unknown:
        raise ConfigError(f"--against knows {', '.join(AGAINST)}; got {', '.join(unknown)}")
    arms: list[Arm] = []
    for folder in bundles:
        engine = load_engine(folder, threads=threads)
        arms.append(Shared(engine, bundle=str(folder)))
        if "naive" in against:
            arms.append(Naive(engine, bundle=str(folder)))
    folder = checkpoint or bundles[0] / "checkpoint"
    config = captioner_config(load_manifest(bundles[0]))
    if {"eager", "transformers"} & set(against):
        arms += _torch_arms(folder, config, against, threads)
    return arms


def _torch_arms(
    checkpoint: Path, config: CaptionerConfig, against: Sequence[str], threads: int | None
) -> Iterator[Arm]:
    torch = require("torch", extra=EXTRA)
    if threads:
        torch.set_num_threads(threads)

    from ureca.models.nano.checkpoint import TOKENIZER, load_checkpoint
    from ureca.models.runtime.eager import TorchBackend, eager_engine
    from ureca.models.tokenizer import Tokenizer

    model = load_checkpoint(checkpoint)
    if "eager" in against:
        engine = eager_engine(model, Tokenizer.load(checkpoint / TOKENIZER))
        yield Eager(engine, bundle=str(checkpoint))
    if "transformers" in against:
        eyes = _Eyes(TorchBackend(model), config)
        yield Transformers(eyes, config, bundle=str(checkpoint))


def _llama(package: Any, language: LanguageConfig) -> Any:
    """Same width, depth, heads and vocabulary; its weights are random, its work the same."""
    config = package.LlamaConfig(
        vocab_size=language.vocab_size,
        hidden_size=language.width,
        intermediate_size=language.ff_width,
        num_hidden_layers=language.layers,
        num_attention_heads=language.heads,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    return package.LlamaForCausalLM(config).eval()


def _ends(stream: Iterator[object]) -> list[RowDone]:
    return sorted((e for e in stream if isinstance(e, RowDone)), key=lambda end: end.row)


def _said(ends: Sequence[RowDone], us: dict[str, int]) -> Said:
    return Said(tuple(e.text for e in ends), tuple(e.n_tok for e in ends), us)


def same_texts(ours: Said, theirs: Said) -> float:
    """Share of captions that are alike."""
    return float(np.mean([a == b for a, b in zip(ours.texts, theirs.texts, strict=True)]))
