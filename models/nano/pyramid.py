"""Converts the trunk's maps to the maps from which region features are read.

The trunk was trained to classify whole images. A light feature pyramid (arXiv 1612.03144) adds its
coarse features to finer cells, which separate the parts of an object. Colour is passed unchanged,
because convolutions trained on ImageNet learn to ignore it. Maps of a detector, which was trained
to tell things apart, are added at each stride where the configuration says so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.config import DETECTOR_CHANNELS, TRUNK_CHANNELS, RegionConfig
from ureca.models.nano.detector import Neck
from ureca.models.nano.trunk import SameConv, make_head_conv

Raw = tuple[Tensor, ...]
"""Maps of the trunk: features [B*T, C, h, w] at strides 8, 16, 32 and RGB [B*T, 3, h, w] at 4; with
a detector three more, its backbone's at strides 8, 16 and 32.
"""

Maps = tuple[Tensor, Tensor, Tensor, Tensor]
"""Maps from which region features are read: [B*T, fused, h, w] at strides 8 and 16, [B*T, 1280, h,
w] at 32 (with a detector 256 more channels) and RGB [B*T, 3, h, w] at 4. The tiles of an image are
adjacent, thumbnail last.
"""


class Pyramid(nn.Module):
    """Lateral 1x1 convolutions, summed top down; the head of the ImageNet classifier on top."""

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        channels = config.fused_channels
        fine, middle, coarse = TRUNK_CHANNELS
        self.fine = nn.Linear(fine, channels)
        self.middle = nn.Linear(middle, channels)
        self.coarse = nn.Linear(coarse, channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = make_head_conv()
        self.sights = DetectorLaterals(channels) if config.detector else None

    def forward(self, raw: Raw) -> Maps:
        """Compute the maps of all tiles; see `Maps`."""
        fine, middle, coarse, colour = raw[:4]
        named = F.relu6(apply_pointwise(self.head, coarse))
        fine, middle = apply_pointwise(self.fine, fine), apply_pointwise(self.middle, middle)
        coarse = apply_pointwise(self.coarse, coarse)
        if self.sights is not None:
            (at8, at16, at32), seen = self.sights(raw[4:])
            fine, middle, coarse = fine + at8, middle + at16, coarse + at32
            named = torch.cat([named, seen], dim=1)
        joined = F.relu(middle + _upsample_twice(coarse))
        joined = joined + F.relu(self.mix(joined))
        return F.relu(fine + _upsample_twice(joined)), joined, named, colour


class DetectorLaterals(nn.Module):
    """The detector's neck, and 1x1 convolutions that begin at zero: a captioner to which a detector
    is added says at first what it said without.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.neck = Neck()
        self.lateral = nn.ModuleList(nn.Linear(c, channels) for c in DETECTOR_CHANNELS)
        for layer in self.lateral.parameters():
            nn.init.zeros_(layer)

    def forward(self, raw: Raw) -> tuple[list[Tensor], Tensor]:
        """The backbone's maps at strides 8, 16, 32 -> laterals [B*T, fused, h, w] at the same
        strides, and the neck's map [B*T, 256, h, w] at 32.
        """
        maps = self.neck((raw[0], *raw))[1:]
        layers = zip(self.lateral, maps, strict=True)
        return [apply_pointwise(layer, seen) for layer, seen in layers], maps[2]  # type: ignore[arg-type]


def apply_pointwise(layer: nn.Linear | SameConv, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution as one matrix product: [B, C, h, w] -> [B, C', h, w].

    (Backward is several times faster on CPUs than through the convolution.)
    """
    assert layer.bias is not None
    flat = layer.weight.flatten(1) @ x.flatten(2) + layer.bias[:, None]
    return flat.unflatten(2, x.shape[2:])


def make_colour_map(pixels: Tensor) -> Tensor:
    """Normalised pixels [T, 3, S, S] -> their means over 4x4 cells [T, 3, S/4, S/4]."""
    return F.avg_pool2d(pixels, 4)


def _upsample_twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
