"""Low-rank adapters (LoRA, arXiv 2106.09685): plain tensors named as `peft` names them, which merge
into their matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ureca.errors import WeightsError
from ureca.models.mllm.config import LoraConfig


class LoraLinear(nn.Module):
    """A frozen linear layer `base`, plus `scale * B A x`; B starts at zero."""

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        self.base, self.scale = base, config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        place, rank = base.weight.device, config.rank
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, device=place))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=place))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        answer = self.base(x)
        low = nn.functional.linear(self.dropout(x).to(self.lora_A.dtype), self.lora_A)
        added = nn.functional.linear(low, self.lora_B) * self.scale
        return answer + added.to(answer.dtype)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Return the layer with its adapter merged. Raises `WeightsError` for quantised weights."""
        weight = self.base.weight
        if not weight.is_floating_point():
            raise WeightsError("adapters cannot be merged into quantised weights: load in bf16")
        added = (self.lora_B.float() @ self.lora_A.float()) * self.scale
        weight.copy_((weight.float() + added).to(weight.dtype))
        return self.base


def add_lora(language: nn.Module, config: LoraConfig) -> list[str]:
    """Replace the named linear layers; return their places. Raises `WeightsError` if there is
    none.
    """
    places = [
        name
        for name, module in language.named_modules()
        if name.rpartition(".")[2] in config.targets and isinstance(module, nn.Linear)
    ]
    missing = set(config.targets) - {name.rpartition(".")[2] for name in places}
    if missing:
        raise WeightsError(
            f"the language model has no linear layers named {sorted(missing)}; name its own in "
            "`lora.targets`"
        )
    for name in places:
        _replace_module(language, name, LoraLinear(language.get_submodule(name), config))  # type: ignore[arg-type]
    return places


def merge_lora(language: nn.Module) -> int:
    """Merge every adapter into its matrix; return their number."""
    found = list(list_adapters(language))
    for name, layer in found:
        _replace_module(language, name, layer.merge())
    return len(found)


def list_adapters(language: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Return every layer with an adapter, by name."""
    yield from [(n, m) for n, m in language.named_modules() if isinstance(m, LoraLinear)]


def get_lora_tensors(language: nn.Module) -> dict[str, Tensor]:
    """Return adapters by name: `layers.0.self_attn.q_proj.lora_A.weight`, ..."""
    return {
        f"{name}.{part}.weight": getattr(layer, part)
        for name, layer in list_adapters(language)
        for part in ("lora_A", "lora_B")
    }


@torch.no_grad()
def load_lora(language: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the adapters. Raises `WeightsError` for other names or shapes."""
    own = get_lora_tensors(language)
    wrong = sorted(set(own) ^ set(tensors))
    if wrong:
        raise WeightsError(f"the adapters do not fit the language model: {wrong[:4]}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(
                f"adapter {name} is {list(tensor.shape)}, expected {list(own[name].shape)}"
            )
        own[name].copy_(tensor)


def _replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)
