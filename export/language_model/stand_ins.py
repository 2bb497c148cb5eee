"""Copies a model without its weights, for tracing, and reads each weight when it is written.

A stand-in has the shape of a weight and the memory of one number. So a trace needs no second set of
weights, whatever their number and dtype, and a file of weights is written tensor by tensor.
Adapters are merged into a tensor at that moment, in float32.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ureca.models.mllm.network.lora import LoraLinear
from ureca.models.mllm.network.model import Mllm

F32 = npt.NDArray[np.float32]
Read = Callable[[], F32]
"""Reads one weight in float32."""


@dataclass(frozen=True)
class Skeleton:
    """A model of stand-ins, and the function that reads each of its weights.

    `model` computes the shapes of the original's results, not their values. Both share nothing that
    tracing changes.
    """

    model: Mllm
    reads: dict[int, Read]
    """By `id` of the stand-in."""

    def list_weights(self, module: nn.Module) -> Iterator[tuple[str, Read]]:
        """List every weight of a module that contains the stand-ins, by the name it has there."""
        for name, parameter in module.named_parameters(remove_duplicate=False):
            yield name, self.reads[id(parameter)]


@torch.no_grad()
def make_skeleton(model: Mllm) -> Skeleton:
    """Copy a model: its structure and its buffers, but no weights. Adapters are merged."""
    memo: dict[int, object] = {}
    reads: dict[int, Read] = {}

    def stand_in(weight: Tensor, read: Read) -> nn.Parameter:
        flat = torch.zeros((), dtype=torch.float32).expand(weight.shape)
        made = nn.Parameter(flat, requires_grad=False)
        reads[id(made)] = read
        return made

    for parameter in model.parameters():
        memo[id(parameter)] = stand_in(parameter, _make_reader(parameter))
    for module in model.modules():
        if isinstance(module, LoraLinear):
            weight = stand_in(module.base.weight, _merge(module))
            memo[id(module)] = _make_merged(module, weight, memo)
    found = copy.deepcopy(model, memo).float().eval()
    _freeze_positions(found.language)
    _fill_tiles(found)
    _replace_norms(found.language)
    return Skeleton(found, reads)


class _FullTiles(nn.Module):
    """Idefics3's vision transformer for tiles without padding. The original counts the patches of
    each tile in a mask and hides the others, which a graph for any number of tiles cannot trace.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.embeddings, self.encoder = tower.embeddings, tower.encoder
        self.post_layernorm = tower.post_layernorm

    def forward(self, pixel_values: Tensor, patch_attention_mask: Tensor) -> SimpleNamespace:
        """pixel_values [T, 3, S, S] -> `last_hidden_state` [T, patches, d]; no mask is read."""
        patches = self.embeddings.patch_embedding(pixel_values)
        down, right = (self._find_places(int(count)) for count in patches.shape[-2:])
        places = (down[:, None] * self.embeddings.num_patches_per_side + right).reshape(-1)
        hidden = patches.flatten(2).transpose(1, 2) + self.embeddings.position_embedding(places)
        seen = self.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        return SimpleNamespace(last_hidden_state=self.post_layernorm(seen))

    def _find_places(self, count: int) -> Tensor:
        """Of `count` patches in a row the learnt positions at the same fraction, as the original
        computes them.
        """
        side = int(self.embeddings.num_patches_per_side)
        borders = torch.arange(1 / side, 1.0, 1 / side)
        shares = (torch.arange(count, dtype=torch.float32) * (1.0 / count)).clamp(max=1.0 - 1e-6)
        return torch.bucketize(shares, borders, right=True)


def _fill_tiles(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        embeddings = getattr(module, "embeddings", None)
        forward = getattr(embeddings, "forward", None)
        if forward and "patch_attention_mask" in inspect.signature(forward).parameters:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _FullTiles(module))


def _make_reader(weight: Tensor) -> Read:
    return lambda: np.asarray(weight.detach().cpu().float().numpy())


def _merge(layer: LoraLinear) -> Read:
    def read() -> F32:
        with torch.no_grad():
            low = (layer.lora_B.float() @ layer.lora_A.float()) * layer.scale
            return np.asarray((layer.base.weight.float() + low).cpu().numpy())

    return read


def _make_merged(layer: LoraLinear, weight: nn.Parameter, memo: dict[int, object]) -> nn.Linear:
    base: Any = layer.base
    made: Any = nn.Linear(1, 1, bias=False)
    made.in_features, made.out_features = base.in_features, base.out_features
    made.weight = weight
    made.bias = None if base.bias is None else memo[id(base.bias)]
    found: nn.Linear = made
    return found


def _freeze_positions(language: nn.Module) -> None:
    """Keep the frequencies that positions begin with.

    "dynamic" ones change behind the length that a model was trained with, which no caption reaches.
    """
    for module in language.modules():
        if getattr(module, "rope_type", "") == "dynamic":
            module.rope_type = "default"  # type: ignore[assignment]


class _Norm(nn.Module):
    """Root-mean-square normalisation in the form that ONNX Runtime runs as one operator."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


def _replace_norms(language: nn.Module) -> None:
    for name, module in list(language.named_modules()):
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            parent, _, leaf = name.rpartition(".")
            made = _Norm(module.weight, module.variance_epsilon)
            setattr(language.get_submodule(parent), leaf, made)
