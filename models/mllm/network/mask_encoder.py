"""Encodes a region as tokens: URECA's mask encoder ("arch 3"), and an optional token of image
features.

It was written from the description in the paper (arXiv 2504.05305, section 4.1 and appendix A) and
the layout of the published weights: two convolutions of stride 2, each channel flattened and passed
through **one shared** linear layer, so that channel n becomes mask token n. There is no position,
no norm and no attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ureca.models.mllm.config import MaskConfig

_AT_ONCE = 32
"""Tiles per call of the convolutions: 16 channels of 224 x 224 are 3 MB a tile."""


class MllmMaskEncoder(nn.Module):
    """The mask encoder. Tensors are named as in the published weights: `mask_encoder.{0,2}`,
    `mask_linear`.
    """

    def __init__(self, config: MaskConfig, *, width: int) -> None:
        super().__init__()
        channels = config.num_mask_tokens
        self.side_px, self.scale = config.side_px, 255.0 if config.legacy_scale else 1.0
        self.mask_encoder = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.mask_linear = nn.Linear(config.cells, width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_normal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, masks: Tensor) -> Tensor:
        """masks f32 [N, T, M, M] of 0..1 -> mask tokens [N, T * n, d], tile by tile."""
        tiles = masks.flatten(0, 1)[:, None] * self.scale
        if self.training or torch.compiler.is_exporting():  # a graph has no loop over its rows
            tokens = self._encode_tiles(tiles)
        else:
            tokens = torch.cat([self._encode_tiles(part) for part in tiles.split(_AT_ONCE)])
        return tokens.unflatten(0, masks.shape[:2]).flatten(1, 2)

    def _encode_tiles(self, tiles: Tensor) -> Tensor:
        """[B, 1, M, M] -> [B, n, d]: the channel is the token, its cells are the features."""
        return self.mask_linear(self.mask_encoder(tiles).flatten(2))


class FeatureToken(nn.Module):
    """Averages the image tokens inside the mask to one more token (not in the paper).

    Its last layer starts at zero, so an untrained one has no effect.
    """

    def __init__(self, *, width: int, tokens_per_tile: int) -> None:
        super().__init__()
        self.side = round(tokens_per_tile**0.5)
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, masks: Tensor, image_tokens: Tensor) -> Tensor:
        """masks [N, T, M, M] and image tokens [T * p, d] of ONE picture -> [N, 1, d]."""
        share = nn.functional.adaptive_avg_pool2d(masks, self.side).flatten(1)
        mean = share @ image_tokens.float() / share.sum(1, keepdim=True).clamp_min(1e-6)
        return self.linear(self.norm(mean))[:, None]


class RegionTokens(nn.Module):
    """Projects a picture tower's region features to the language model's channels (not in the
    paper).
    """

    def __init__(self, *, tokens: int, channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(channels, hidden), nn.Linear(hidden, width)
        self.place = nn.Parameter(torch.zeros(tokens, width))

    def forward(self, said: Tensor) -> Tensor:
        """[N, k, c] -> [N, k, d]."""
        said = said.to(self.inner.weight.dtype)
        return self.outer(nn.functional.gelu(self.inner(said))) + self.place

    @torch.no_grad()
    def scale_to_embeddings(self, deviation: float) -> None:
        """Scale a fresh layer's outputs to word embeddings with the given `deviation`. Untrained
        tokens must not dominate the text.
        """
        drawn = torch.randn(64, *self.place.shape[:1], self.inner.in_features)
        self.outer.weight.mul_(deviation / self(drawn).std())
