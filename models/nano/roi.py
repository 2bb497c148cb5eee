"""What a grid laid over a region's box sees: tokens with a sense of place inside the region."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.nano.pyramid import Maps

_POINTS = 8
_INNER = 128
_CELL = 96
_TOKENS = 2
_DROPOUT = 0.1


class RoiEncoder(nn.Module):
    """8x8 bilinear samples of fine map, middle map, colour and mask -> two tokens a box.

    One encoder reads the tight box and the wider ones; an embedding says which.
    """

    def __init__(self, channels: int, *, width: int, grids: int) -> None:
        super().__init__()
        self.point = nn.Linear(2 * channels + 3 + 1, _INNER)
        self.which = nn.Parameter(torch.randn(grids, _INNER) * 0.02)
        self.conv = nn.Conv2d(_INNER, _CELL, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(_DROPOUT)
        self.out = nn.Linear(_CELL * (_POINTS // 2) ** 2, _TOKENS * width)

    def forward(self, boxes: Tensor, mask: Tensor, maps: Maps) -> Tensor:
        """boxes [N, G, 4] normalised xyxy, one for each grid (may reach outside), mask [N, 1, M, M]
        and maps of the whole picture -> [N, G * 2, d].
        """
        rows, grids = boxes.shape[:2]
        points = _points(boxes.flatten(0, 1))  # all grids at once: each weight is used in one place
        seen = F.grid_sample(
            mask, points.unflatten(0, (rows, grids)).flatten(1, 2), align_corners=False
        )
        seen = seen.reshape(rows * grids, 1, _POINTS, _POINTS)
        cells = torch.cat([*(_sample(maps[level], points) for level in (0, 1, 3)), seen], dim=1)
        inner = self.point(cells.permute(0, 2, 3, 1)).unflatten(0, (rows, grids))
        inner = F.gelu(inner + self.which[None, :, None, None]).flatten(0, 1)
        cells = F.gelu(self.conv(inner.permute(0, 3, 1, 2)))
        return self.out(self.dropout(cells.flatten(1))).reshape(rows, grids * _TOKENS, -1)


def widened(boxes: Tensor, times: float) -> Tensor:
    """Boxes `times` as wide and high around the same centres; may reach outside the picture."""
    more = (boxes[:, 2:] - boxes[:, :2]) * ((times - 1) / 2)
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], dim=1)


def _points(boxes: Tensor) -> Tensor:
    """Centres of an 8x8 grid in each box, in grid_sample's -1..1 -> [N, 8, 8, 2]."""
    steps = (torch.arange(_POINTS, device=boxes.device, dtype=boxes.dtype) + 0.5) / _POINTS
    low, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    line = (low + size * steps[None, :, None]) * 2 - 1  # [N, 8, (x, y)]
    xs = line[:, None, :, 0].expand(-1, _POINTS, -1)
    ys = line[:, :, None, 1].expand(-1, -1, _POINTS)
    return torch.stack([xs, ys], dim=-1)


def _sample(feature_map: Tensor, points: Tensor) -> Tensor:
    """[B, C, h, w] at points [B*R, 8, 8, 2] -> [B*R, C, 8, 8] without copying a map per region."""
    pictures, channels = feature_map.shape[:2]
    regions = points.shape[0] // pictures
    grid = points.reshape(pictures, regions * _POINTS, _POINTS, 2)
    values = F.grid_sample(feature_map, grid, align_corners=False)
    values = values.reshape(pictures, channels, regions, _POINTS, _POINTS)
    return values.transpose(1, 2).reshape(points.shape[0], channels, _POINTS, _POINTS)
