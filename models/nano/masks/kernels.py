"""Kernels: what is clicked, boxed or simply there becomes weights over one map.

The logit of a mask at a cell is weights . map - a X^2 - b Y^2 + c X + d Y + bias, where X and Y are
distances from the click (in units of 64 px) or from the middle of the box (in halves of its sides)
and a, b >= 0. Multiplied out this is a polynomial in u = x / 64 and v = y / 64, so u^2, v^2, u, v,
1 are five more channels of the map, and K masks are one product [K, C + 5] x [C + 5, cells].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.nano.masks.config import SLOTS, MaskHeadConfig
from ureca.models.runtime.segmentation.mask_head import BOX_MARGIN, MAP_STRIDE, OUTSIDE

UNIT_PX = 64.0
_EXTRA = 6
"""Beside its weights a kernel is made from: a, b, c, d, bias, IoU logit."""
_WIDTHS = (1.0, 0.25, 0.02)
"""a and b of part, thing and whole before training."""
_FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)


class PointKernels(nn.Module):
    """Three kernels for every point: part, thing, whole."""

    def __init__(self, config: MaskHeadConfig) -> None:
        super().__init__()
        self._size = config.map_channels + _EXTRA
        seen = 2 * config.channels + config.map_channels
        self.hidden, self.out = (
            nn.Linear(seen, config.hidden),
            nn.Linear(config.hidden, SLOTS * self._size),
        )
        with torch.no_grad():
            bias = self.out.bias.view(SLOTS, self._size)
            for row, width in zip(bias, _WIDTHS, strict=True):
                row[-_EXTRA:-4] = math.log(math.expm1(width))
                row[-4:] = 0.0

    def forward(
        self, cells: Tensor, context: Tensor, masks: Tensor, points_px: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`points_px` f32 [B, N, 2] (x, y) on the canvas -> kernels [B, N, 3, C + 5] and IoU logits
        [B, N, 3]. The first three arguments are the fields of `Seen`: cells, context, map.
        """
        seen = [sample_at(x, points_px, masks.shape) for x in (cells, context, masks)]
        raw = self.out(F.relu(self.hidden(torch.cat(seen, -1))))
        raw = raw.unflatten(-1, (SLOTS, self._size))
        return fold(raw, points_px[:, :, None], raw.new_full((2,), UNIT_PX)), raw[..., -1]


class BoxKernels(nn.Module):
    """One kernel for every box, from 5 x 5 samples inside it."""

    def __init__(self, config: MaskHeadConfig) -> None:
        super().__init__()
        self._size = config.map_channels + _EXTRA
        self.narrow = nn.Conv2d(config.channels, 32, 1)
        seen = 32 * len(_FRACTIONS) ** 2 + config.channels + 4
        self.hidden, self.out = nn.Linear(seen, config.hidden), nn.Linear(config.hidden, self._size)
        with torch.no_grad():
            self.out.bias[-_EXTRA:-4] = math.log(math.expm1(2.0))
            self.out.bias[-4:] = torch.tensor([0.0, 0.0, 2.0, 0.0])

    def forward(
        self, cells: Tensor, context: Tensor, masks: Tensor, boxes_px: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`boxes_px` f32 [B, N, 4] xyxy on the canvas -> kernels [B, N, C + 5] and IoU logits
        [B, N].
        """
        corner, sides = boxes_px[..., :2], (boxes_px[..., 2:] - boxes_px[..., :2]).clamp_min(4.0)
        steps = torch.tensor(_FRACTIONS, device=sides.device)
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
        places = corner[:, :, None] + grid * sides[:, :, None]
        inside = sample_at(self.narrow(cells), places.flatten(1, 2), masks.shape)
        inside = inside.unflatten(1, places.shape[1:3]).flatten(2)
        centre = corner + sides / 2
        about = sample_at(context, centre, masks.shape)
        size = torch.cat((torch.log(sides / UNIT_PX), torch.sqrt(sides) / 8), -1)
        raw = self.out(F.relu(self.hidden(torch.cat((inside, about, size), -1))))
        return fold(raw, centre, sides / 2), raw[..., -1]


def sample_at(x: Tensor, points_px: Tensor, map_shape: torch.Size) -> Tensor:
    """Values [B, N, C] of a map [B, C, h, w] at points of the canvas, bilinear.

    `map_shape` is the shape of the stride-4 map, which gives the canvas.
    """
    sides = points_px.new_tensor([map_shape[3] * MAP_STRIDE, map_shape[2] * MAP_STRIDE])
    grid = points_px / sides * 2 - 1
    found = F.grid_sample(
        x, grid[:, :, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[..., 0].transpose(1, 2)


def fold(raw: Tensor, middle_px: Tensor, unit_px: Tensor) -> Tensor:
    """Raw outputs [..., C + 6] around `middle_px` [..., 2] in units `unit_px` [..., 2] -> kernels
    [..., C + 5] over the map's channels and u^2, v^2, u, v, 1.
    """
    scale = UNIT_PX / unit_px
    middle = middle_px / UNIT_PX
    bend = F.softplus(raw[..., -6:-4]) * scale**2
    slope = raw[..., -4:-2] * scale
    bias = raw[..., -2] - (bend * middle**2 + slope * middle).sum(-1)
    linear = slope + 2 * bend * middle
    return torch.cat((raw[..., :-_EXTRA], -bend, linear, bias[..., None]), -1)


def make_position_channels(height: int, width: int, *, like: Tensor) -> Tensor:
    """u^2, v^2, u, v and 1 of every cell of the stride-4 map: [5, height, width]."""
    v = ((torch.arange(height) + 0.5) * (MAP_STRIDE / UNIT_PX))[:, None].expand(height, width)
    u = ((torch.arange(width) + 0.5) * (MAP_STRIDE / UNIT_PX))[None].expand(height, width)
    return torch.stack((u * u, v * v, u, v, torch.ones_like(u))).to(like)


def draw(kernels: Tensor, masks: Tensor) -> Tensor:
    """Logits [B, K, h, w] of kernels [B, K, C + 5] on the map [B, C, h, w]."""
    height, width = masks.shape[2:]
    places = make_position_channels(height, width, like=masks).expand(masks.shape[0], -1, -1, -1)
    return (kernels @ torch.cat((masks, places), 1).flatten(2)).unflatten(2, (height, width))


def cut_at_boxes(logits: Tensor, boxes_px: Tensor) -> Tensor:
    """Logits [B, K, h, w] with `OUTSIDE` beyond each box [B, K, 4] and 6 % of its sides."""
    height, width = logits.shape[2:]
    margin = (boxes_px[..., 2:] - boxes_px[..., :2]) * BOX_MARGIN + MAP_STRIDE / 2
    low, high = boxes_px[..., :2] - margin, boxes_px[..., 2:] + margin
    x = (torch.arange(width, device=logits.device) + 0.5) * MAP_STRIDE
    y = (torch.arange(height, device=logits.device) + 0.5) * MAP_STRIDE
    across = (x >= low[..., :1]) & (x <= high[..., :1])
    down = (y >= low[..., 1:]) & (y <= high[..., 1:])
    return torch.where(down[..., :, None] & across[..., None, :], logits, OUTSIDE)
