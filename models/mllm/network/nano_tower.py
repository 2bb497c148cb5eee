"""The nano's vision trunk and a language model of `transformers`, as one model of that package.

The tower is the vision part of `ureca-nano`: trunk, image projector, pyramid and region features.
It keeps the weights of the nano's training. Its features of an image (25 image tokens) and of a
region (8 tokens) were trained for a language model of width 256; the projector behind it adapts
them to another one. Everything else is LLaVA's classes, so the package's own functions for loading,
saving and generating work.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)

from ureca.errors import WeightsError
from ureca.models.config import CaptionerConfig
from ureca.models.mllm.network.families import NANO_LM
from ureca.models.nano.network import Captioner, encode_frozen
from ureca.models.nano.pyramid import Maps

TOWER_TYPE = "ureca_nano_tower"
_PARTS = ["trunk", "detector", "projector", "pyramid", "features"]


class TowerConfig(PreTrainedConfig):
    """Sizes of the tower; `nano` is a `CaptionerConfig` as plain data."""

    model_type = TOWER_TYPE
    nano: dict[str, Any] | None = None
    image_size: int = 320
    hidden_size: int = 256


class TowerFeatures(NamedTuple):
    """The tower's features of the tiles of ONE image."""

    tokens: Tensor
    """Image tokens f32 [T, p, c], each of mean 0 and deviation 1."""
    maps: Maps
    """The maps from which regions are read."""


class NanoTower(PreTrainedModel):
    """The frozen tower. It always computes in float32: its tensors are few and its features were
    trained so.
    """

    config_class = TowerConfig
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict: set[str] | list[str] | None = _PARTS

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        nano = Captioner(read_nano_config(config))
        if nano.features is None:
            raise WeightsError("the nano has no region features: expected pooled_features or roi")
        self.trunk, self.detector, self.projector = nano.trunk, nano.detector, nano.projector
        self.pyramid, self.features = nano.pyramid, nano.features
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the parts initialise themselves."""

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> TowerFeatures:
        """Encode tiles f32 [T, 3, S, S] of one image."""
        pixels = pixel_values.float()
        raw = encode_frozen(self.trunk, self.detector, pixels)
        return TowerFeatures(_normalise(self.projector(raw[2])), self.pyramid(raw))

    @torch.no_grad()
    def regions(self, masks: Tensor, maps: Maps) -> Tensor:
        """masks f32 [N, T, M, M] of 0/1 of that image -> region tokens f32 [N, k, c]."""
        return _normalise(self.features(masks, compute_boxes(masks[:, -1]), maps))


class NanoLmConfig(LlavaConfig):
    """LLaVA's configuration, with the nano's tower."""

    model_type = NANO_LM


class NanoLm(LlavaForConditionalGeneration):
    """LLaVA's classes over the nano's tower."""

    config_class = NanoLmConfig
    _keep_in_fp32_modules_strict: set[str] | list[str] | None = ["vision_tower"]  # noqa: RUF012


def register_tower() -> None:
    """Register both with the package's `Auto` classes; a second call changes nothing."""
    AutoConfig.register(TOWER_TYPE, TowerConfig, exist_ok=True)
    AutoConfig.register(NANO_LM, NanoLmConfig, exist_ok=True)
    AutoModel.register(TowerConfig, NanoTower, exist_ok=True)
    AutoModelForImageTextToText.register(NanoLmConfig, NanoLm, exist_ok=True)


def make_tower_config(nano: CaptionerConfig) -> TowerConfig:
    """Return the tower configuration of a nano."""
    return TowerConfig(
        nano=asdict(nano), image_size=nano.vision.tile_px, hidden_size=nano.language.width
    )


def read_nano_config(config: Any) -> CaptionerConfig:  # a `TowerConfig`
    """Return the configuration of a tower's nano. Raises `WeightsError` if it is none."""
    try:
        return msgspec.convert(config.nano or {}, CaptionerConfig)
    except (msgspec.ValidationError, ValueError) as error:
        raise WeightsError(f"the tower's configuration is not a nano's: {error}") from error


def compute_boxes(masks: Tensor) -> Tensor:
    """Return tight boxes f32 [N, 4] (xyxy, 0..1) of mask tiles [N, M, M] that show the whole
    image.
    """
    side = masks.shape[-1]
    edges = torch.arange(side, device=masks.device, dtype=torch.float32)
    found = []
    for axis in (1, 2):  # rows are seen along x, columns along y
        any_set = (masks > 0).any(dim=axis)
        low = torch.where(any_set, edges, float(side)).amin(dim=1).clamp_max(side - 1)
        high = torch.where(any_set, edges + 1, 0.0).amax(dim=1)
        found.append((low, torch.maximum(high, low + 1)))
    (x0, x1), (y0, y1) = found
    return torch.stack([x0, y0, x1, y1], dim=1) / side


def _normalise(tokens: Tensor) -> Tensor:
    """Normalise to mean 0 and deviation 1 along the channels: the lengths of token kinds differ
    tenfold.
    """
    return nn.functional.layer_norm(tokens, tokens.shape[-1:])
