"""Sets which parts are trained, by name, and checks that no others are."""

from __future__ import annotations

import re

from torch import nn

from ureca.errors import ConfigError
from ureca.models.mllm.network.lora import add_lora, list_adapters
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.training.config import MllmTrainConfig, Parts

_MUST_NOT = re.compile(r"vision|visual\.(?!merger)|embed|^base\.lm_head")
"""Image encoder, words, output layer."""


def freeze_parts(model: Mllm, config: MllmTrainConfig) -> list[str]:
    """Enable gradients for exactly the stage's parts; return their names in order.

    Raises `ConfigError` when a part that should learn is absent, or another one would.
    """
    parts = get_parts(model, config)
    if parts.lora and not list(list_adapters(model.language)):
        add_lora(model.language, config.lora)
    allowed = re.compile("|".join(_list_patterns(model, parts)) or "$^")
    for name, parameter in model.named_parameters():
        learns = allowed.fullmatch(name) is not None
        parameter.requires_grad_(learns)
        if learns:
            parameter.data = parameter.data.float()
    names = list_trainable(model)
    _check(model, parts, names)
    return names


def get_parts(model: Mllm, config: MllmTrainConfig) -> Parts:
    """Return the parts that are trained in the stage."""
    return config.choose_parts(own_tokens=model.family.own_tokens is not None)


def list_trainable(model: nn.Module) -> list[str]:
    """Return the names of all trained parameters."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _list_patterns(model: Mllm, parts: Parts) -> list[str]:
    family = model.family
    choices = (
        (parts.mask, r"masks\.mask_(encoder|linear)\..+"),
        (parts.feature, r"(feature|region_tokens)\..+"),
        (parts.marks, r"marks"),
        (parts.projector, rf"base\.model\.{re.escape(family.projector)}\..+"),
        (parts.lora, rf"base\.model\.{family.language}\..+\.lora_[AB]"),
        (parts.everything, r"base\..+|marks"),
        (
            parts.mask_convolution,
            rf"base\.model\.{re.escape(own.masks)}\..+" if (own := family.own_tokens) else r"$^",
        ),
    )
    return [pattern for wanted, pattern in choices if wanted]


def _check(model: Mllm, parts: Parts, names: list[str]) -> None:
    if parts.projector and list(list_adapters(model.language)):
        raise ConfigError("the image projector and adapters learn in different stages: drop one")
    if not names:
        raise ConfigError(f"nothing learns with {parts}: name at least one part")
    if parts.everything:
        _check_everything(model, parts)
        return
    if parts.mask_convolution and not any(n.startswith("base.model.vision_tower") for n in names):
        raise ConfigError("the mask convolution should learn and this base has none")
    if parts.mask and not any(name.startswith("masks.") for name in names):
        raise ConfigError("the mask encoder should learn and has no parameters")
    own = model.family.own_tokens
    allowed = f"base.model.{own.masks}." if own and parts.mask_convolution else "$"
    seen = [n for n in names if _MUST_NOT.search(n) and not n.startswith(allowed)]
    if seen:
        raise ConfigError(f"these would learn and must not: {seen[:4]}")
    tied = {id(p) for p in model.base.get_input_embeddings().parameters() if p.requires_grad}
    if tied:
        raise ConfigError("the word embeddings would learn: freeze the base")


def _check_everything(model: Mllm, parts: Parts) -> None:
    if parts != Parts(everything=True):
        raise ConfigError("parts.everything names all parts: drop the others")
    if model.family.own_tokens is None:
        raise ConfigError(f"parts.everything: a base of {model.config.family!r} stays frozen")
    if list(list_adapters(model.language)):
        raise ConfigError("parts.everything: this checkpoint has adapters; export it, or drop them")
