"""Computes the tokens of one region: mask tokens, and image features inside the mask.

`MaskEncoder` is URECA's (arXiv 2504.05305; "arch 3" of the published code): two strided
convolutions, then one linear layer shared by all channels, so that channel n becomes mask token n.
It reads the mask only.

`RegionFeatures` is our addition, with a switch for each part. The paper names mask-only
conditioning as its own weakness. Features of the region itself let a small model name it (our
pilot: head noun 15 % without, 35 % with).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.config import (
    CLASSES,
    DETECTOR_CHANNELS,
    TRUNK_HEAD_CHANNELS,
    RegionConfig,
    VisionConfig,
)
from ureca.models.nano.pyramid import Maps
from ureca.models.nano.roi import RoiEncoder, widen_boxes

_FREQUENCIES = 4
_COLOUR_BINS = 32
_COLOUR_STATISTICS = _COLOUR_BINS + 6 + 6
_HIDDEN = 512
_DROPOUT = 0.1


_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Where the outputs (row, column) of a 2x2 block lie that share one cell of half the size."""


class MaskEncoder(nn.Module):
    """Mask tiles f32 [N, T, M, M] of 0/1 -> mask tokens [N, T * n, d], n = `num_mask_tokens`."""

    def __init__(self, vision: VisionConfig, *, num_mask_tokens: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, num_mask_tokens, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(num_mask_tokens, num_mask_tokens, 3, stride=2, padding=1)
        self.linear = nn.Linear((vision.mask_px // 4) ** 2, width)
        for layer in (self.conv1, self.conv2, self.linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, masks: Tensor) -> Tensor:
        rows, tiles, side, _ = masks.shape
        x = F.relu(self._halve_twice(masks.reshape(rows * tiles, 1, side, side)))
        tokens = self.linear(F.relu(self._halve(x)).flatten(2))
        return tokens.reshape(rows, tiles * tokens.shape[1], tokens.shape[2])

    def _halve_twice(self, masks: Tensor) -> Tensor:
        """Apply `conv1` with its four neighbouring outputs as channels: [B, 1, M, M] -> [B, 4n,
        M/4, M/4].

        The mask is read once. CPUs are slowest at few channels with a fine stride.
        """
        weight = torch.cat([_shift_kernel(self.conv1.weight, p) for p in _PHASES])
        bias = self.conv1.bias
        assert bias is not None
        return F.conv2d(masks, weight, bias.repeat(len(_PHASES)), stride=4, padding=1)

    def _halve(self, x: Tensor) -> Tensor:
        """Apply `conv2` to such channels: [B, 4n, h, w] -> [B, n, h, w]."""
        weight = F.pad(self.conv2.weight, (1, 0, 1, 0)).unflatten(3, (2, 2)).unflatten(2, (2, 2))
        weight = weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
        return F.conv2d(F.pad(x, (1, 0, 1, 0)), weight, self.conv2.bias)


class RegionFeatures(nn.Module):
    """Image features of regions: two mask-pooled tokens, and two tokens for each grid on a box."""

    def __init__(self, config: RegionConfig, *, width: int) -> None:
        super().__init__()
        self.config = config
        channels = config.fused_channels
        if config.pooled_features:
            colours = _COLOUR_STATISTICS if config.colour else 0
            self.fine = _make_mlp(2 * channels + colours, width)
            self.semantic = _make_mlp(TRUNK_HEAD_CHANNELS, width)
            self.geometry = nn.Sequential(
                nn.Linear(7 * (1 + 2 * _FREQUENCIES), width), nn.GELU(), nn.Linear(width, width)
            )
        if config.pooled_features and config.colour:
            self.bins = nn.Linear(3, _COLOUR_BINS)
        if config.pooled_features and config.class_prior:
            self.classifier = nn.Linear(TRUNK_HEAD_CHANNELS, CLASSES)
            self.names = nn.Linear(CLASSES, width, bias=False)
        if config.pooled_features and config.detector:
            self.sighted = _make_mlp(DETECTOR_CHANNELS[2], width)
            for weight in self.sighted[-1].parameters():  # says nothing at first
                nn.init.zeros_(weight)
        if config.grids:
            self.roi = RoiEncoder(channels, width=width, grids=len(config.grids))

    def forward(self, masks: Tensor, boxes: Tensor, maps: Maps) -> Tensor:
        """masks [N, T, M, M], boxes [N, 4] normalised xyxy, maps of B pictures -> [N, K, d]."""
        config, tiles = self.config, masks.shape[1]
        mask, whole = masks[:, -1:], _select_thumbnails(maps, tiles)
        tokens: list[Tensor] = []
        if config.pooled_features:
            tokens.append(self._pool(masks, boxes, maps))
        if config.grids:
            wide = torch.stack([widen_boxes(boxes, times) for times in config.grids], dim=1)
            tokens.append(self.roi(wide, mask, whole))
        return torch.cat(tokens, dim=1)

    def _pool(self, masks: Tensor, boxes: Tensor, maps: Maps) -> Tensor:
        shares = _compute_shares(masks)
        fine = [_average_in_mask(shares[0], maps[0]), _average_in_mask(shares[1], maps[1])]
        if self.config.colour:
            fine.append(self._encode_colours(shares[3], _split_blocks(maps[3]).flatten(2)))
        pooled = _average_in_mask(shares[2], maps[2])
        named = pooled[:, :TRUNK_HEAD_CHANNELS]
        semantic = self.semantic(named)
        if self.config.detector:
            semantic = semantic + self.sighted(pooled[:, TRUNK_HEAD_CHANNELS:])
        if self.config.class_prior:
            semantic = semantic + self.names(torch.softmax(self.classifier(named), dim=-1))
        tokens = torch.stack([self.fine(torch.cat(fine, dim=-1)), semantic], dim=1)
        if self.config.box_geometry:
            area = shares[2].mean(dim=(1, 2, 3))[:, None]
            shape = torch.cat([boxes, boxes[:, 2:] - boxes[:, :2], area], dim=1)
            tokens = tokens + self.geometry(_encode_fourier(shape))[:, None]
        return tokens

    def _encode_colours(self, share: Tensor, colour: Tensor) -> Tensor:
        """Compute a soft histogram (learnt bins), mean and mean square of the region. Mean and mean
        square of the whole image are added, because they give the light: a white mug at dusk has
        grey pixels.
        """
        bins = F.relu(self.bins(colour.transpose(1, 2))).transpose(1, 2)
        moments = torch.cat([colour, colour.square()], dim=1)
        rows, tiles = share.shape[:2]
        pictures = moments.shape[0] // tiles
        light = moments.mean(dim=2).reshape(pictures, tiles, -1).mean(dim=1)
        light = light.repeat_interleave(rows // pictures, dim=0)
        inside = _average_in_mask(share, torch.cat([bins, moments], dim=1))
        return torch.cat([inside, light], dim=-1)


def _select_thumbnails(maps: Maps, tiles: int) -> Maps:
    """Select the maps of the tile that shows the whole image: the last tile of each image."""
    if tiles == 1:
        return maps
    fine, middle, coarse, colour = (level[tiles - 1 :: tiles] for level in maps)
    return fine, middle, coarse, colour


def _shift_kernel(kernel: Tensor, phase: tuple[int, int]) -> Tensor:
    """Return a 3x3 kernel of stride 2 as the 5x5 kernel of stride 4 that computes one of its four
    phases.
    """
    down, across = 2 * phase[0], 2 * phase[1]
    return F.pad(kernel, (across, 2 - across, down, 2 - down))


def _make_mlp(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width_in),
        nn.Linear(width_in, _HIDDEN),
        nn.GELU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_HIDDEN, width_out),
    )


def _compute_shares(masks: Tensor) -> tuple[Tensor, ...]:
    """Compute how much of every cell the masks [N, T, M, M] cover: [N, T, h, w] at strides 8, 16
    and 32 of the image, and [N, T, 4, h, w] at stride 4, in the order of `_split_blocks`.

    One convolution reads the masks. CPUs are slowest at few channels with a fine stride.
    """
    rows, tiles, side, _ = masks.shape
    shares = F.conv2d(
        masks.reshape(rows * tiles, 1, side, side), _make_quarter_kernels(masks), stride=4
    )
    shares = shares.unflatten(0, (rows, tiles))
    fine = shares[:, :, 4]
    middle = F.avg_pool2d(fine, 2)
    return fine, middle, F.avg_pool2d(middle, 2), shares[:, :, :4]


def _make_quarter_kernels(like: Tensor) -> Tensor:
    """Return kernels [5, 1, 4, 4]: the mean of each quarter of a 4x4 block, then of the whole
    block.
    """
    quarters = torch.eye(4, dtype=like.dtype, device=like.device).reshape(4, 1, 2, 2) / 4
    quarters = quarters.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return torch.cat([quarters, quarters.mean(dim=0, keepdim=True)])


def _split_blocks(colour: Tensor) -> Tensor:
    """[B, C, 2h, 2w] -> [B, C, 4, h, w]: splits 2x2 blocks into their four cells, blocks in
    order.
    """
    return F.pixel_unshuffle(colour, 2).unflatten(1, (-1, 4))


def _average_in_mask(share: Tensor, feature_map: Tensor) -> Tensor:
    """Mean of [B*T, C, ...] weighted by [N, T, ...] -> [N, C]; rows are ordered by image."""
    rows, tiles = share.shape[:2]
    channels = feature_map.shape[1]
    pictures = feature_map.shape[0] // tiles
    weight = share.reshape(pictures, rows // pictures, -1)
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-6)
    flat = (
        feature_map.reshape(pictures, tiles, channels, -1)
        .transpose(2, 3)
        .reshape(pictures, -1, channels)
    )
    return (weight @ flat).reshape(rows, channels)


def _encode_fourier(values: Tensor) -> Tensor:
    """[N, k] in 0..1 -> [N, k * (1 + 2 * frequencies)]."""
    scale = math.pi * 2.0 ** torch.arange(_FREQUENCIES, device=values.device, dtype=values.dtype)
    waves = values[..., None] * scale
    return torch.cat([values[..., None], waves.sin(), waves.cos()], dim=-1).flatten(1)
