"""Encodes a grid over a region's box as tokens that keep positions inside the region."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.nano.pyramid import Maps

_POINTS = 8
_INNER = 128
_CELL = 96
_TOKENS = 2
_PLAIN = 3 + 1  # colour and mask
_DROPOUT = 0.1


class RoiEncoder(nn.Module):
    """Samples fine map, middle map, colour and mask at 8x8 points -> two tokens a box.

    One encoder reads the tight box and the wider ones; an embedding identifies the box.
    """

    def __init__(self, channels: int, *, width: int, grids: int) -> None:
        super().__init__()
        self.point = nn.Linear(2 * channels + _PLAIN, _INNER)
        self.which = nn.Parameter(torch.randn(grids, _INNER) * 0.02)
        self.conv = nn.Conv2d(_INNER, _CELL, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(_DROPOUT)
        self.out = nn.Linear(_CELL * (_POINTS // 2) ** 2, _TOKENS * width)

    def forward(self, boxes: Tensor, mask: Tensor, maps: Maps) -> Tensor:
        """boxes [N, G, 4] normalised xyxy, one for each grid (may reach outside), mask [N, 1, M, M]
        and maps of B whole images -> [N, G * 2, d].
        """
        rows, grids = boxes.shape[:2]
        points = _make_grid_points(
            boxes.flatten(0, 1)
        )  # all grids in one call, so each weight is used in one place
        inner = self._sample_projected(points, mask, maps).unflatten(2, (-1, grids, _POINTS**2))
        inner = F.gelu(inner + (self.which + self.point.bias).T[:, None, :, None])
        inner = inner.flatten(2, 3).transpose(1, 2).flatten(0, 1)
        cells = F.gelu(self.conv(inner.unflatten(2, (_POINTS, _POINTS))))
        return self.out(self.dropout(cells.flatten(1))).reshape(rows, grids * _TOKENS, -1)

    def _sample_projected(self, points: Tensor, mask: Tensor, maps: Maps) -> Tensor:
        """Apply `point` without its bias at all points: [B, inner, N / B * G * 64].

        A bilinear sample is linear, so whole maps go through the layer before they are sampled.
        Regions share that work, and 128 channels are sampled instead of 256.
        """
        channels = maps[0].shape[1]
        fine, middle, rest = self.point.weight.split([channels, channels, _PLAIN], dim=1)
        seen = F.grid_sample(
            mask, points.reshape(mask.shape[0], -1, _POINTS, 2), align_corners=False
        )
        plain = [_sample(maps[3], points), seen.reshape(maps[3].shape[0], 1, -1)]
        return (
            _sample(_mix_channels(fine, maps[0]), points)
            + _sample(_mix_channels(middle, maps[1]), points)
            + rest @ torch.cat(plain, dim=1)
        )


def widen_boxes(boxes: Tensor, times: float) -> Tensor:
    """Return boxes `times` as wide and high around the same centres; they may reach outside the
    image.
    """
    more = (boxes[:, 2:] - boxes[:, :2]) * ((times - 1) / 2)
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], dim=1)


def _make_grid_points(boxes: Tensor) -> Tensor:
    """Centres of an 8x8 grid in each box, in grid_sample's -1..1 -> [N, 8, 8, 2]."""
    steps = (torch.arange(_POINTS, device=boxes.device, dtype=boxes.dtype) + 0.5) / _POINTS
    low, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    line = (low + size * steps[None, :, None]) * 2 - 1  # [N, 8, (x, y)]
    xs = line[:, None, :, 0].expand(-1, _POINTS, -1)
    ys = line[:, :, None, 1].expand(-1, -1, _POINTS)
    return torch.stack([xs, ys], dim=-1)


def _sample(feature_map: Tensor, points: Tensor) -> Tensor:
    """[B, C, h, w] at points [B*R, 8, 8, 2] -> [B, C, R*64] without copying a map per region."""
    grid = points.reshape(feature_map.shape[0], -1, _POINTS, 2)
    return F.grid_sample(feature_map, grid, align_corners=False).flatten(2)


def _mix_channels(weight: Tensor, feature_map: Tensor) -> Tensor:
    """weight [D, C] over the channels of [B, C, h, w] -> [B, D, h, w]."""
    return (weight @ feature_map.flatten(2)).unflatten(2, feature_map.shape[2:])
