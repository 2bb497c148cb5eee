"""The freeze plan, set and then checked: what learns is listed by name, and nothing else may."""

from __future__ import annotations

import re

from torch import nn

from ureca.errors import ConfigError
from ureca.models.mllm.network.captioner import Mllm
from ureca.models.mllm.network.lora import adapters, add_lora
from ureca.models.mllm.training.config import MllmTrainConfig, Parts

_MUST_NOT = re.compile(r"vision|visual\.(?!merger)|embed|^base\.lm_head")
"""Image encoder, words, output layer."""


def freeze(model: Mllm, config: MllmTrainConfig) -> list[str]:
    """Let exactly the stage's parts learn; returns their names in order.

    Raises `ConfigError` when a part that should learn is absent, or another one would.
    """
    parts = config.learns
    if parts.lora and not list(adapters(model.language)):
        add_lora(model.language, config.lora)
    allowed = re.compile("|".join(_patterns(model, parts)) or "$^")
    for name, parameter in model.named_parameters():
        learns = allowed.fullmatch(name) is not None
        parameter.requires_grad_(learns)
        if learns:
            parameter.data = parameter.data.float()
    names = trainable(model)
    _check(model, parts, names)
    return names


def trainable(model: nn.Module) -> list[str]:
    """Names of everything that learns."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _patterns(model: Mllm, parts: Parts) -> list[str]:
    family = model.family
    choices = (
        (parts.mask, r"masks\.mask_(encoder|linear)\..+"),
        (parts.feature, r"(feature|region_tokens)\..+"),
        (parts.marks, r"marks"),
        (parts.projector, rf"base\.model\.{re.escape(family.projector)}\..+"),
        (parts.lora, rf"base\.model\.{family.language}\..+\.lora_[AB]"),
    )
    return [pattern for wanted, pattern in choices if wanted]


def _check(model: Mllm, parts: Parts, names: list[str]) -> None:
    if parts.projector and list(adapters(model.language)):
        raise ConfigError("the image projector and adapters learn in different stages: drop one")
    if not names:
        raise ConfigError(f"nothing learns with {parts}: name at least one part")
    if parts.mask and not any(name.startswith("masks.") for name in names):
        raise ConfigError("the mask encoder should learn and has no parameters")
    seen = [n for n in names if _MUST_NOT.search(n)]
    if seen:
        raise ConfigError(f"these would learn and must not: {seen[:4]}")
    tied = {id(p) for p in model.base.get_input_embeddings().parameters() if p.requires_grad}
    if tied:
        raise ConfigError("the word embeddings would learn: freeze the base")
