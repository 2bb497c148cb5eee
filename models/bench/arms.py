"""The methods of captioning a frame's regions that `ureca bench engine` compares.

`shared`        one encode, one batch: what the node does
`naive`         the same engine, everything once per region, as without a shared prefix
`eager`         as `shared`, in torch without compilation
`transformers`  the same weights in a stock model of that package, `generate` once per region with
               image, region and prompt each time: what a user would write today
`transformers-cached`
               the same, with the image and all regions encoded once
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ureca.datatypes import RowDone
from ureca.engine import Engine
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.bench.scenes import BenchScene
from ureca.models.bench.stock import EXTRA, StockModel
from ureca.models.runtime.load import load_engine

AGAINST = ("naive", "eager", "transformers", "transformers-cached")
_TORCH = set(AGAINST[1:])


@dataclass(frozen=True, slots=True)
class ArmOutput:
    """Captions of one frame in the order of its regions, and how many tokens each took."""

    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    us: dict[str, int] = field(default_factory=dict)
    """Microseconds by stage, where the arm knows them."""


class Arm(Protocol):
    """One method, ready to run."""

    name: str
    runtime: str
    precision: str
    bundle: str

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """Caption one frame."""


class Shared:
    """An engine as the node uses it: one encode, one batch."""

    name = "shared"

    def __init__(self, engine: Engine, *, bundle: str) -> None:
        self.engine, self.bundle = engine, bundle
        self.runtime, self.precision = engine.info.runtime, engine.info.precision

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """One encode, one batch."""
        ends = _collect_terminals(
            self.engine.caption(self.engine.encode(scene.image), scene.regions)
        )
        return _make_output(ends, dict(self.engine.times.us))


class Naive(Shared):
    """The same engine without sharing."""

    name = "naive"

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """Run the whole path once per region."""
        ends = []
        for region in scene.regions:
            ends += _collect_terminals(
                self.engine.caption(self.engine.encode(scene.image), [region])
            )
        return _make_output(ends, {})


class Eager(Shared):
    """The reference engine, in torch."""

    name = "eager"


class Transformers:
    """`generate` of a stock model with the same weights, nothing shared between regions."""

    name, precision = "transformers", "fp32"

    def __init__(self, stock: StockModel, *, bundle: str) -> None:
        self.stock, self.bundle, self.runtime = stock, bundle, stock.runtime

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """Encode image, region and prompt again for every region."""
        prompts = (self.stock.encode_prompts(scene, [region])[0] for region in scene.regions)
        return self._generate(prompts, scene)

    def _generate(self, prompts: Iterable[Any], scene: BenchScene) -> ArmOutput:
        pairs = zip(prompts, scene.regions, strict=True)
        said = [self.stock.generate(prompt, region) for prompt, region in pairs]
        return ArmOutput(tuple(text for text, _ in said), tuple(count for _, count in said))


class TransformersCached(Transformers):
    """The same, with the image and all regions encoded once."""

    name = "transformers-cached"

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """Encode once, then run one prompt and one `generate` per region."""
        return self._generate(self.stock.encode_prompts(scene, scene.regions), scene)


def open_arms(
    bundles: Sequence[Path],
    *,
    against: Sequence[str],
    checkpoint: Path | None,
    threads: int | None,
) -> list[Arm]:
    """Open `shared` of every bundle, then the methods that it is compared with.

    `checkpoint` (default: that of the first bundle) is the input of methods in torch. Raises
    `BundleError`, `ConfigError` for an unknown method, `MissingExtraError` for a missing package.
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
    if _TORCH & set(against):
        arms += _open_torch_arms(checkpoint or bundles[0] / "checkpoint", against, threads)
    return arms


def _open_torch_arms(
    checkpoint: Path, against: Sequence[str], threads: int | None
) -> Iterator[Arm]:
    torch = require("torch", extra=EXTRA)
    if threads:
        torch.set_num_threads(threads)

    from ureca.models.nano.checkpoint import TOKENIZER, load_checkpoint
    from ureca.models.runtime.eager import make_eager_engine
    from ureca.models.tokenizer import Tokenizer

    model, tokenizer = load_checkpoint(checkpoint), Tokenizer.load(checkpoint / TOKENIZER)
    if "eager" in against:
        yield Eager(make_eager_engine(model, tokenizer), bundle=str(checkpoint))
    for kind in (Transformers, TransformersCached):
        if kind.name in against:
            yield kind(StockModel(model, tokenizer), bundle=str(checkpoint))


def _collect_terminals(stream: Iterator[object]) -> list[RowDone]:
    return sorted((e for e in stream if isinstance(e, RowDone)), key=lambda end: end.row)


def _make_output(ends: Sequence[RowDone], us: dict[str, int]) -> ArmOutput:
    return ArmOutput(tuple(e.text for e in ends), tuple(e.n_tok for e in ends), us)


def measure_equal_texts(ours: ArmOutput, theirs: ArmOutput) -> float:
    """Return the share of captions that are equal."""
    return float(np.mean([a == b for a, b in zip(ours.texts, theirs.texts, strict=True)]))
