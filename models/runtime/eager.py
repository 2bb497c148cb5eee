"""The same engine over the torch network: the reference for every exported bundle.

Imports torch, so nothing on the node's path may import this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ureca.datatypes import EngineInfo
from ureca.models.nano.captioner import Captioner
from ureca.models.nano.language import KV
from ureca.models.nano.pyramid import Maps
from ureca.models.runtime.decode import F32, I64, Choice
from ureca.models.runtime.engine import BatchEngine
from ureca.models.tokenizer import Tokenizer

Layers = tuple[KV, ...]


@dataclass(frozen=True, slots=True)
class TorchPicture:
    """Image tokens [1, P, d], feature maps, and the prefix KV once filled."""

    tokens: Tensor
    maps: Maps
    prefix: Layers = ()


class TorchBackend:
    """Implements `engine.Backend` over a `Captioner` in float32 on the CPU."""

    def __init__(self, model: Captioner) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def encode(self, pixels: F32) -> TorchPicture:
        """Vision: image tokens and feature maps."""
        tokens, maps = self.model.vision(torch.from_numpy(pixels))
        return TorchPicture(tokens, maps)

    @torch.inference_mode()
    def prefill(self, picture: TorchPicture) -> TorchPicture:
        """The KV that all regions share."""
        return replace(picture, prefix=self.model.prefix(picture.tokens))

    @torch.inference_mode()
    def regions(self, picture: TorchPicture, masks: F32, boxes: F32) -> F32:
        """Region tokens f32 [N, K, d]."""
        tokens = self.model.regions(torch.from_numpy(masks), torch.from_numpy(boxes), picture.maps)
        return np.asarray(tokens.numpy())

    @torch.inference_mode()
    def embed(self, ids: I64) -> F32:
        """Rows of the embedding table."""
        return np.asarray(self.model.embed(torch.from_numpy(ids)).numpy())

    @torch.inference_mode()
    def step(self, picture: TorchPicture, x: F32, own: Layers | None) -> tuple[Choice, Layers]:
        """One pass of the language model and its greedy choice."""
        logits, grown = self.logits(picture, x, own)
        best = logits.max(axis=-1)
        with np.errstate(invalid="ignore"):  # NaN is the answer that `decode` waits for
            spread = np.log(np.exp(logits - best[:, None]).sum(axis=-1))
        return Choice(logits.argmax(axis=-1), -spread), grown

    @torch.inference_mode()
    def logits(self, picture: TorchPicture, x: F32, own: Layers | None) -> tuple[F32, Layers]:
        """One pass of the language model: logits f32 [N, V] of the last position."""
        past = own if own is not None else self.model.language.empty(x.shape[0])
        logits, grown = self.model.lm(torch.from_numpy(x), picture.prefix, past)
        return np.asarray(logits.numpy()), grown

    def bare(self, picture: TorchPicture) -> TorchPicture:
        """The picture with an empty prefix, for runs that bring the image tokens along."""
        return replace(picture, prefix=self.model.language.empty(1))

    @torch.inference_mode()
    def keep(self, own: Layers, slots: I64) -> Layers:
        """Gather rows of every layer's own KV."""
        rows = torch.from_numpy(slots)
        return tuple((k[:, rows], v[:, rows]) for k, v in own)


def eager_engine(
    model: Captioner, tokenizer: Tokenizer, *, max_regions: int = 32
) -> BatchEngine[TorchPicture, Layers]:
    """The reference engine over a loaded network."""
    info = EngineInfo(
        model=model.config.name,
        runtime=f"torch {torch.__version__}",
        precision="fp32",
        bundle_sha="",
        max_regions=max_regions,
        max_new_tokens=model.config.language.max_new_tokens,
    )
    return BatchEngine(TorchBackend(model), config=model.config, tokenizer=tokenizer, info=info)
