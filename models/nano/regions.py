"""What the language model is told about one region: mask tokens, and image features from inside the
mask.

`MaskEncoder` is URECA's (arXiv 2504.05305; the shipped "arch 3" of `research/seeds.md` 1.1): two
strided convolutions, then one linear layer shared by all channels, so that channel n becomes mask
token n. It sees the mask only.

`RegionFeatures` is our addition, a config switch each: the paper names mask-only conditioning as
its own weakness, and features from the region itself are what lets a small model name it (our
pilot: head noun 15 % without, 35 % with).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.config import TRUNK_CHANNELS, TRUNK_HEAD_CHANNELS, RegionConfig, VisionConfig
from ureca.models.nano.trunk import head_conv

Maps = tuple[Tensor, Tensor, Tensor]
"""Feature maps [B * T, C, h, w] at strides 8, 16, 32; the tiles of a picture are neighbours,
thumbnail last.
"""

_ROI_POINTS = 8
_ROI_CELL = sum(TRUNK_CHANNELS) + 1
_FREQUENCIES = 4


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
        x = F.relu(self.conv1(masks.reshape(rows * tiles, 1, side, side)))
        tokens = self.linear(F.relu(self.conv2(x)).flatten(2))
        return tokens.reshape(rows, tiles * tokens.shape[1], tokens.shape[2])


class RegionFeatures(nn.Module):
    """Image features of regions: two mask-pooled tokens and four tokens of a small RoI grid."""

    def __init__(self, config: RegionConfig, *, width: int) -> None:
        super().__init__()
        self.config = config
        if config.pooled_features:
            self.head = head_conv()
            self.fine = _projection(sum(TRUNK_CHANNELS), width)
            self.semantic = _projection(TRUNK_HEAD_CHANNELS, width)
            self.geometry = nn.Sequential(
                nn.Linear(7 * (1 + 2 * _FREQUENCIES), width), nn.GELU(), nn.Linear(width, width)
            )
        if config.roi_tokens:
            self.roi = _projection(4 * _ROI_CELL, width)
            self.roi_position = nn.Parameter(torch.randn(config.roi_tokens, width) * 0.02)

    def forward(self, masks: Tensor, boxes: Tensor, maps: Maps) -> Tensor:
        """masks [N, T, M, M], boxes [N, 4] normalised xyxy, maps of B pictures -> [N, K, d]."""
        tokens: list[Tensor] = []
        if self.config.pooled_features:
            tokens.append(self._pooled(masks, boxes, maps))
        if self.config.roi_tokens:
            tokens.append(self._roi(masks[:, -1:], boxes, maps, tiles=masks.shape[1]))
        return torch.cat(tokens, dim=1)

    def _pooled(self, masks: Tensor, boxes: Tensor, maps: Maps) -> Tensor:
        fine = torch.cat(
            [_mask_mean(masks, m, cell=c) for m, c in zip(maps, (4, 8, 16), strict=True)], dim=-1
        )
        semantic = _mask_mean(masks, F.relu6(self.head(maps[2])), cell=16)
        tokens = torch.stack([self.fine(fine), self.semantic(semantic)], dim=1)
        if self.config.box_geometry:
            area = masks.mean(dim=(1, 2, 3))[:, None]
            tokens = (
                tokens
                + self.geometry(
                    _fourier(torch.cat([boxes, boxes[:, 2:] - boxes[:, :2], area], dim=1))
                )[:, None]
            )
        return tokens

    def _roi(self, mask: Tensor, boxes: Tensor, maps: Maps, *, tiles: int) -> Tensor:
        """Bilinear samples on the whole-picture tile (the last one), averaged to 4x4 cells, 2x2
        cells a token.
        """
        rows = boxes.shape[0]
        points = _roi_points(boxes)
        sampled = [_sample(m[tiles - 1 :: tiles], points) for m in maps]
        cells = torch.cat([*sampled, F.grid_sample(mask, points, align_corners=False)], dim=1)
        cells = F.avg_pool2d(cells, 2)  # [N, C, 4, 4]
        blocks = cells.reshape(rows, _ROI_CELL, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1)
        return self.roi(blocks.reshape(rows, 4, 4 * _ROI_CELL)) + self.roi_position


def _projection(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width_out))


def _mask_mean(masks: Tensor, feature_map: Tensor, *, cell: int) -> Tensor:
    """Mean of [B*T, C, h, w] under masks [N, T, M, M] (cell = M / h) -> [N, C]; rows are ordered by
    picture.
    """
    rows, tiles = masks.shape[:2]
    channels = feature_map.shape[1]
    pictures = feature_map.shape[0] // tiles
    weight = F.avg_pool2d(masks, cell).reshape(pictures, rows // pictures, -1)
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-6)
    flat = (
        feature_map.reshape(pictures, tiles, channels, -1)
        .transpose(2, 3)
        .reshape(pictures, -1, channels)
    )
    return (weight @ flat).reshape(rows, channels)


def _roi_points(boxes: Tensor) -> Tensor:
    """Centres of an 8x8 grid in each box, in grid_sample's -1..1 -> [N, 8, 8, 2]."""
    steps = (torch.arange(_ROI_POINTS, device=boxes.device, dtype=boxes.dtype) + 0.5) / _ROI_POINTS
    low, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    line = (low + size * steps[None, :, None]) * 2 - 1  # [N, 8, (x, y)]
    xs = line[:, None, :, 0].expand(-1, _ROI_POINTS, -1)
    ys = line[:, :, None, 1].expand(-1, -1, _ROI_POINTS)
    return torch.stack([xs, ys], dim=-1)


def _sample(feature_map: Tensor, points: Tensor) -> Tensor:
    """[B, C, h, w] at points [B*R, 8, 8, 2] -> [B*R, C, 8, 8] without copying a map per region."""
    pictures, channels = feature_map.shape[:2]
    regions = points.shape[0] // pictures
    grid = points.reshape(pictures, regions * _ROI_POINTS, _ROI_POINTS, 2)
    values = F.grid_sample(feature_map, grid, align_corners=False)
    values = values.reshape(pictures, channels, regions, _ROI_POINTS, _ROI_POINTS)
    return values.transpose(1, 2).reshape(points.shape[0], channels, _ROI_POINTS, _ROI_POINTS)


def _fourier(values: Tensor) -> Tensor:
    """[N, k] in 0..1 -> [N, k * (1 + 2 * frequencies)]."""
    scale = math.pi * 2.0 ** torch.arange(_FREQUENCIES, device=values.device, dtype=values.dtype)
    waves = values[..., None] * scale
    return torch.cat([values[..., None], waves.sin(), waves.cos()], dim=-1).flatten(1)
