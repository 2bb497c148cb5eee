"""Pixels to what kernels are made of and drawn on: one map, and cells that describe every place.

Everything is a convolution without absolute positions, so any canvas of multiples of 32 works.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.nano.detector import Detector, Maps
from ureca.models.nano.masks.config import TRUNK_CHANNELS, MaskHeadConfig
from ureca.models.nano.masks.kernels import BoxKernels, PointKernels
from ureca.models.nano.trunk import Trunk

_QUARTER_BLOCKS = 3  # of EfficientNet-Lite0 before the stride becomes 8


class Seen(NamedTuple):
    """One pass: `map` [B, 32, H/4, W/4], `cells` [B, 64, H/8, W/8], `context` [B, 64, H/16, W/16]
    with the sizes of `MaskHeadConfig`.
    """

    map: Tensor
    cells: Tensor
    context: Tensor


class LiteTrunk(Trunk):
    """EfficientNet-Lite0 that also gives its stride-4 map."""

    def forward(self, pixels: Tensor) -> Maps:  # type: ignore[override]
        """Maps at strides 4, 8, 16, 32 with 24, 40, 112 and 320 channels."""
        quarter = F.relu6(self.stem(pixels))
        for block in self.blocks[:_QUARTER_BLOCKS]:
            quarter = block(quarter)
        fine = quarter
        for block in self.blocks[_QUARTER_BLOCKS:5]:
            fine = block(fine)
        middle = fine
        for block in self.blocks[5:11]:
            middle = block(middle)
        return quarter, fine, middle, self.run_tail(middle)


class Residual(nn.Module):
    """x + ReLU(convolution of x); depthwise-separable where `separable`."""

    def __init__(self, channels: int, *, separable: bool = False) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(channels, channels, 3, padding=1)
        if separable:
            self.conv = nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
                nn.Conv2d(channels, channels, 1),
            )

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.conv(x))


class Fusion(nn.Module):
    """A feature pyramid, top down to stride 4: trunk maps to `Seen`."""

    def __init__(self, config: MaskHeadConfig) -> None:
        super().__init__()
        quarter, fine, middle, coarse = TRUNK_CHANNELS[config.trunk]
        channels, wide = config.channels, config.channels // 4 * 3
        self.coarse, self.middle = nn.Conv2d(coarse, channels, 1), nn.Conv2d(middle, channels, 1)
        self.fine, self.quarter = nn.Conv2d(fine, channels, 1), nn.Conv2d(quarter, wide, 1)
        self.mix16, self.mix8 = Residual(channels), Residual(channels)
        self.again8 = Residual(channels)
        self.down4 = nn.Conv2d(channels, wide, 1)
        self.mix4 = nn.Sequential(Residual(wide, separable=True), Residual(wide, separable=True))
        self.out4 = nn.Conv2d(wide, config.map_channels, 1)

    def forward(self, maps: Maps) -> Seen:
        quarter, fine, middle, coarse = maps
        context = self.mix16(F.relu(self.middle(middle) + _upsample(self.coarse(coarse))))
        cells = self.mix8(F.relu(self.fine(fine) + _upsample(context)))
        small = self.mix4(F.relu(self.quarter(quarter) + _upsample(self.down4(cells))))
        return Seen(self.out4(small), self.again8(cells), context)


class MaskNetwork(nn.Module):
    """The trunk, the fusion, and the two makers of kernels.

    Input: f32 [B, 3, H, W], ImageNet-normalised RGB (`canvas.py`), sides multiples of 32.
    """

    def __init__(self, config: MaskHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk: nn.Module = Detector() if config.trunk == "yolox-nano" else LiteTrunk()
        self.fusion = Fusion(config)
        self.points, self.boxes = PointKernels(config), BoxKernels(config)

    def forward(self, pixels: Tensor) -> Seen:
        """Look at pictures once."""
        return self.fusion(self.trunk(pixels))


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
