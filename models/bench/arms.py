"""The ways to caption a frame's regions that are timed against each other.

`shared`        one encode, one batch: what the node does
`naive`         the same engine, everything once per region, as models without a shared prefix must
`eager`         as `shared`, in torch without compilation
`transformers`  the same weights in a stock model of that package, `generate` once per region with
                picture, region and prompt anew: what a user would write today
`transformers-cached`
                the same at its best, given the picture and all regions encoded once
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
from ureca.models.bench.stock import EXTRA, Stock
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
    """One way, ready to run."""

    name: str
    runtime: str
    precision: str
    bundle: str

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """Caption one frame."""


class Shared:
    """An engine as the node uses it."""

    name = "shared"

    def __init__(self, engine: Engine, *, bundle: str) -> None:
        self.engine, self.bundle = engine, bundle
        self.runtime, self.precision = engine.info.runtime, engine.info.precision

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """One encode, one batch."""
        ends = _ends(self.engine.caption(self.engine.encode(scene.image), scene.regions))
        return _said(ends, dict(self.engine.times.us))


class Naive(Shared):
    """The same engine without its idea."""

    name = "naive"

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """The whole path once per region."""
        ends = []
        for region in scene.regions:
            ends += _ends(self.engine.caption(self.engine.encode(scene.image), [region]))
        return _said(ends, {})


class Eager(Shared):
    """The reference engine, in torch."""

    name = "eager"


class Transformers:
    """`generate` of a stock model with the same weights, nothing shared between regions."""

    name, precision = "transformers", "fp32"

    def __init__(self, stock: Stock, *, bundle: str) -> None:
        self.stock, self.bundle, self.runtime = stock, bundle, stock.runtime

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """Picture, region and prompt anew for every region."""
        prompts = (self.stock.prompts(scene, [region])[0] for region in scene.regions)
        return self._say(prompts, scene)

    def _say(self, prompts: Iterable[Any], scene: BenchScene) -> ArmOutput:
        pairs = zip(prompts, scene.regions, strict=True)
        said = [self.stock.say(prompt, region) for prompt, region in pairs]
        return ArmOutput(tuple(text for text, _ in said), tuple(count for _, count in said))


class TransformersCached(Transformers):
    """The same, given the picture and all regions encoded once."""

    name = "transformers-cached"

    def __call__(self, scene: BenchScene) -> ArmOutput:
        """One encode; still one prompt and one `generate` per region."""
        return self._say(self.stock.prompts(scene, scene.regions), scene)


def open_arms(
    bundles: Sequence[Path],
    *,
    against: Sequence[str],
    checkpoint: Path | None,
    threads: int | None,
) -> list[Arm]:
    """`shared` of every bundle, then what it is to be compared with.

    `checkpoint` (default: that of the first bundle) is what arms in torch read. Raises
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
    if _TORCH & set(against):
        arms += _torch_arms(checkpoint or bundles[0] / "checkpoint", against, threads)
    return arms


def _torch_arms(checkpoint: Path, against: Sequence[str], threads: int | None) -> Iterator[Arm]:
    torch = require("torch", extra=EXTRA)
    if threads:
        torch.set_num_threads(threads)

    from ureca.models.nano.checkpoint import TOKENIZER, load_checkpoint
    from ureca.models.runtime.eager import eager_engine
    from ureca.models.tokenizer import Tokenizer

    model, tokenizer = load_checkpoint(checkpoint), Tokenizer.load(checkpoint / TOKENIZER)
    if "eager" in against:
        yield Eager(eager_engine(model, tokenizer), bundle=str(checkpoint))
    for kind in (Transformers, TransformersCached):
        if kind.name in against:
            yield kind(Stock(model, tokenizer), bundle=str(checkpoint))


def _ends(stream: Iterator[object]) -> list[RowDone]:
    return sorted((e for e in stream if isinstance(e, RowDone)), key=lambda end: end.row)


def _said(ends: Sequence[RowDone], us: dict[str, int]) -> ArmOutput:
    return ArmOutput(tuple(e.text for e in ends), tuple(e.n_tok for e in ends), us)


def same_texts(ours: ArmOutput, theirs: ArmOutput) -> float:
    """Share of captions that are alike."""
    return float(np.mean([a == b for a, b in zip(ours.texts, theirs.texts, strict=True)]))
