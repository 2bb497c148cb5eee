"""FineCaption's picture tower (arXiv 2411.15411): a mask-aware CLIP, ConvNeXt and SAM's encoder.

CLIP sees the small picture and the mask of a region: a second patch convolution reads the mask and
is added to that of the pixels (as in Alpha-CLIP, arXiv 2312.03818). It starts at zero, so an
untrained one changes nothing. ConvNeXt and SAM see the large picture only. All maps are brought to
one grid and joined along their channels.

The paper leaves open, so it is ours: CLIP's map before its last layer is used (as in LLaVA); it is
enlarged bilinearly; a block of SAM's cells becomes channels of one token (pixel unshuffle); masks
are 0 or 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2Model,
    PreTrainedConfig,
    PreTrainedModel,
    SamVisionConfig,
    SamVisionModel,
)

from ureca.errors import WeightsError
from ureca.models.mllm.config import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from ureca.models.mllm.finecaption.sizes import CONVNEXT, SAM, read_sizes

TOWER_TYPE = "ureca_finecaption_tower"
_CONVNEXT: dict[str, tuple[Any, Any]] = {
    "convnext": (ConvNextConfig, ConvNextModel),
    "convnextv2": (ConvNextV2Config, ConvNextV2Model),
}


class FineTowerConfig(PreTrainedConfig):
    """The encoders as plain data; None is an encoder that is not there."""

    model_type = TOWER_TYPE
    clip: dict[str, Any] | None = None
    convnext: dict[str, Any] | None = None
    sam: dict[str, Any] | None = None
    masked: bool = True
    """Whether CLIP reads the mask; without it all regions of a picture get the same tokens."""
    image_size: int = 1024
    hidden_size: int = 0
    """Channels of one image token before the adapter: the sum over the encoders."""


class MaskedPatches(nn.Conv2d):
    """CLIP's patch convolution, and one of the mask beside it.

    The weights of the pixels keep their name, so a plain CLIP fits.
    """

    def __init__(self, pixels: nn.Conv2d) -> None:
        width, patch = pixels.out_channels, pixels.kernel_size[0]
        super().__init__(pixels.in_channels, width, patch, stride=patch, bias=False)
        self.mask = nn.Conv2d(1, width, patch, stride=patch, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels and mask [B, 4, S, S] -> [B, d, s, s]."""
        return super().forward(x[:, :3]) + self.mask(x[:, 3:])


class FineTower(PreTrainedModel):
    """The encoders. `pixels` are tiles of ImageNet's mean and deviation [T, 3, S, S]."""

    config_class = FineTowerConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: FineTowerConfig) -> None:
        super().__init__(config)
        self.sizes = read_sizes(config)
        self.clip = CLIPVisionModel(CLIPVisionConfig(**(config.clip or {})))
        if config.masked:
            plain = self.clip.embeddings.patch_embedding
            self.clip.embeddings.patch_embedding = MaskedPatches(plain)
        self.convnext = None if config.convnext is None else _make_convnext(config.convnext)
        self.sam = None if config.sam is None else SamVisionModel(SamVisionConfig(**config.sam))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the encoders initialise themselves."""

    def reset_mask(self) -> None:
        """Set the mask's convolution to zero: the tower's output is then that of a plain CLIP. The
        package draws every new convolution at random.
        """
        patches = self.clip.embeddings.patch_embedding
        if isinstance(patches, MaskedPatches):
            nn.init.zeros_(patches.mask.weight)

    def shrink(self, pixels: Tensor) -> Tensor:
        """Tiles [T, 3, S, S] -> CLIP's small pictures [T, 3, m, m] with its own mean and
        deviation.
        """
        side = self.sizes.mask_px
        if pixels.shape[-1] != side:
            pixels = nn.functional.interpolate(
                pixels, (side, side), mode="bilinear", antialias=True
            )
        mean, std, clip_mean, clip_std = (
            torch.tensor(each, dtype=pixels.dtype, device=pixels.device)[:, None, None]
            for each in (IMAGENET_MEAN, IMAGENET_STD, CLIP_MEAN, CLIP_STD)
        )
        return pixels * (std / clip_std) + (mean - clip_mean) / clip_std

    def encode_small(self, small: Tensor, masks: Tensor) -> Tensor:
        """Small pictures [B, 3, m, m] and their masks [B, m, m] of 0..1 -> CLIP's map
        [B, s * s, c].
        """
        if self.config.masked:
            small = torch.cat([small, masks[:, None].to(small.dtype)], dim=1)
        return self.clip(small).last_hidden_state[:, 1:]

    def encode_large(self, pixels: Tensor) -> dict[str, Tensor]:
        """Tiles [T, 3, S, S] -> the maps of the mask-free encoders on the grid, each
        [T, p, c].
        """
        encoders = {CONVNEXT: self.convnext, SAM: self.sam}
        found = {n: one(pixels).last_hidden_state for n, one in encoders.items() if one is not None}
        return {
            name: nn.functional.pixel_unshuffle(cells, self.sizes.shuffle(name))
            .flatten(2)
            .transpose(1, 2)
            for name, cells in found.items()
        }

    def enlarge(self, cells: Tensor) -> Tensor:
        """CLIP's cells [B, s * s, c] -> the grid's tokens [B, p, c]."""
        side, wanted = self.sizes.clip.side, self.sizes.grid_side
        if side == wanted:
            return cells
        grid = cells.transpose(1, 2).unflatten(2, (side, side))
        larger = nn.functional.interpolate(grid, (wanted, wanted), mode="bilinear")
        return larger.flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Tensor, masks: Tensor) -> Tensor:
        """Tiles [B, 3, S, S], each with its mask [B, m, m] -> joined maps [B, p, C]: the plain
        fusion, which runs all encoders for every region.
        """
        small = self.enlarge(self.encode_small(self.shrink(pixel_values), masks))
        return torch.cat([small, *self.encode_large(pixel_values).values()], dim=-1)


def _make_convnext(config: dict[str, Any]) -> nn.Module:
    kind = config.get("model_type")
    if kind not in _CONVNEXT:
        raise WeightsError(f"a ConvNeXt of {list(_CONVNEXT)} is expected, got {kind!r}")
    make_config, model = _CONVNEXT[kind]
    made: nn.Module = model(make_config(**config))
    return made
