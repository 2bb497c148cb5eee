"""Runs the engine on the torch network: the reference for every exported bundle.

It imports torch, so nothing on the node's path may import this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ureca.datatypes import EngineInfo
from ureca.models.nano.language import KV
from ureca.models.nano.network import Captioner
from ureca.models.nano.pyramid import Maps
from ureca.models.runtime.batch_engine import BatchEngine
from ureca.models.runtime.decode import F32, I64, Choice
from ureca.models.runtime.scoring import ScoringArrays, ScoringBatchEngine
from ureca.models.tokenizer import Tokenizer

Layers = tuple[KV, ...]


@dataclass(frozen=True, slots=True)
class TorchPicture:
    """Image tokens [1, P, d], feature maps, and the prefix KV after `prefill`."""

    tokens: Tensor
    maps: Maps
    prefix: Layers = ()


class TorchBackend:
    """Implements `engine.Backend` over a `Captioner` in float32 on the CPU."""

    def __init__(self, model: Captioner) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def encode(self, pixels: F32) -> TorchPicture:
        """Run vision: image tokens and feature maps."""
        tokens, maps = self.model.vision(torch.from_numpy(pixels))
        return TorchPicture(tokens, maps)

    @torch.inference_mode()
    def prefill(self, picture: TorchPicture) -> TorchPicture:
        """Compute the KV that all regions share."""
        return replace(picture, prefix=self.model.make_prefix(picture.tokens))

    @torch.inference_mode()
    def regions(self, picture: TorchPicture, masks: F32, boxes: F32) -> F32:
        """Compute region tokens f32 [N, K, d]."""
        tokens = self.model.regions(torch.from_numpy(masks), torch.from_numpy(boxes), picture.maps)
        return np.asarray(tokens.numpy())

    @torch.inference_mode()
    def embed(self, ids: I64) -> F32:
        """Look up rows of the embedding table."""
        return np.asarray(self.model.embed(torch.from_numpy(ids)).numpy())

    @torch.inference_mode()
    def step(self, picture: TorchPicture, x: F32, own: Layers | None) -> tuple[Choice, Layers]:
        """Run one pass of the language model and choose greedily."""
        logits, grown = self.logits(picture, x, own)
        best = logits.max(axis=-1)
        with np.errstate(invalid="ignore"):  # `decode` detects NaN
            spread = np.log(np.exp(logits - best[:, None]).sum(axis=-1))
        return Choice(logits.argmax(axis=-1), -spread), grown

    def read(self, picture: TorchPicture, x: F32) -> Layers:
        """The own KV of x, to score texts after it."""
        return self.step(picture, x, None)[1]

    @torch.inference_mode()
    def logits(self, picture: TorchPicture, x: F32, own: Layers | None) -> tuple[F32, Layers]:
        """Run one pass of the language model: logits f32 [N, V] of the last position."""
        past = own if own is not None else self.model.language.make_empty_kv(x.shape[0])
        logits, grown = self.model.run_lm(torch.from_numpy(x), picture.prefix, past)
        return np.asarray(logits.numpy()), grown

    def drop_prefix(self, picture: TorchPicture) -> TorchPicture:
        """Return the image with an empty prefix, for runs whose input contains the image tokens."""
        return replace(picture, prefix=self.model.language.make_empty_kv(1))

    @torch.inference_mode()
    def score(self, picture: TorchPicture, x: F32, targets: I64, own: Layers) -> F32:
        """Log-probability f32 [N, Q] of every target after the prefix, `own` and the texts x."""
        given = torch.from_numpy(x), torch.from_numpy(targets)
        return np.asarray(self.model.score(*given, picture.prefix, own).numpy())

    def own(self, keys_values: F32) -> Layers:
        """An own KV from numbers: f32 [2 * layers, H, N, S, hd], keys of all layers first."""
        values = torch.from_numpy(keys_values).chunk(2)
        return tuple(zip(*(half.unbind() for half in values), strict=True))

    @torch.inference_mode()
    def keep(self, own: Layers, slots: I64) -> Layers:
        """Gather rows of every layer's own KV."""
        rows = torch.from_numpy(slots)
        return tuple((k[:, rows], v[:, rows]) for k, v in own)


def make_eager_engine(
    model: Captioner,
    tokenizer: Tokenizer,
    *,
    max_regions: int = 32,
    scoring: ScoringArrays | None = None,
) -> BatchEngine[TorchPicture, Layers]:
    """Make the reference engine over a loaded network; with `scoring` it scores texts, too."""
    info = EngineInfo(
        model=model.config.name,
        runtime=f"torch {torch.__version__}",
        precision="fp32",
        bundle_sha="",
        max_regions=max_regions,
        max_new_tokens=model.config.language.max_new_tokens,
    )
    given: dict[str, Any] = {"config": model.config, "tokenizer": tokenizer, "info": info}
    if scoring is None:
        return BatchEngine(TorchBackend(model), **given)
    return ScoringBatchEngine(TorchBackend(model), scoring=scoring, **given)
