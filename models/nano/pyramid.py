"""From the frozen trunk's maps to the maps that regions are read from.

The trunk was trained to name whole pictures. A light feature pyramid (arXiv 1612.03144) carries its
coarse knowledge down to finer cells, where the parts of a thing come apart; colour rides along
untouched, since convolutions trained on ImageNet learn to look past it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.config import TRUNK_CHANNELS
from ureca.models.nano.trunk import SameConv, head_conv

Raw = tuple[Tensor, Tensor, Tensor, Tensor]
"""What the trunk sees: features [B*T, C, h, w] at strides 8, 16, 32 and RGB [B*T, 3, h, w] at 4."""

Maps = tuple[Tensor, Tensor, Tensor, Tensor]
"""What regions are read from: [B*T, fused, h, w] at strides 8 and 16, [B*T, 1280, h, w] at 32 and
RGB [B*T, 3, h, w] at 4; the tiles of a picture are neighbours, thumbnail last.
"""


class Pyramid(nn.Module):
    """Lateral 1x1 convolutions, summed top down; the head of the ImageNet classifier on top."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        fine, middle, coarse = TRUNK_CHANNELS
        self.fine = nn.Linear(fine, channels)
        self.middle = nn.Linear(middle, channels)
        self.coarse = nn.Linear(coarse, channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = head_conv()

    def forward(self, raw: Raw) -> Maps:
        """Maps of all tiles; see `Maps`."""
        fine, middle, coarse, colour = raw
        joined = F.relu(pointwise(self.middle, middle) + _twice(pointwise(self.coarse, coarse)))
        joined = joined + F.relu(self.mix(joined))
        fine = F.relu(pointwise(self.fine, fine) + _twice(joined))
        named = F.relu6(pointwise(self.head, coarse))
        return fine, joined, named, colour


def pointwise(layer: nn.Linear | SameConv, x: Tensor) -> Tensor:
    """A 1x1 convolution as one matrix product: [B, C, h, w] -> [B, C', h, w].

    (Backward is several times faster on CPUs than through the convolution.)
    """
    assert layer.bias is not None
    flat = layer.weight.flatten(1) @ x.flatten(2) + layer.bias[:, None]
    return flat.unflatten(2, x.shape[2:])


def colour_map(pixels: Tensor) -> Tensor:
    """Normalised pixels [T, 3, S, S] -> their means over 4x4 cells [T, 3, S/4, S/4]."""
    return F.avg_pool2d(pixels, 4)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
