"""What a mask head is made of: frozen sizes, stored beside its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TrunkName = Literal["yolox-nano", "efficientnet-lite0"]

TRUNK_CHANNELS: dict[TrunkName, tuple[int, int, int, int]] = {
    "yolox-nano": (32, 64, 128, 256),
    "efficientnet-lite0": (24, 40, 112, 320),
}
"""Channels of the maps at strides 4, 8, 16 and 32."""

SLOTS = 3
"""Kernels of one point: part, thing, whole."""

POSITION_TERMS = 5
"""A kernel also weighs u^2, v^2, u, v and 1 of every cell: see `kernels.py`."""


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig:
    """Sizes of a mask head.

    `canvas_px` (height, width): what a picture is scaled into, multiples of 32. `channels` of
    `cells` and `context`, `map_channels` of the map, `hidden` of the two small networks that make
    kernels.
    """

    trunk: TrunkName = "yolox-nano"
    canvas_px: tuple[int, int] = (384, 512)
    channels: int = 64
    map_channels: int = 32
    hidden: int = 192

    def __post_init__(self) -> None:
        if self.trunk not in TRUNK_CHANNELS:
            raise ValueError(f"trunk must be one of {sorted(TRUNK_CHANNELS)}, got {self.trunk!r}")
        if any(side < 32 or side % 32 for side in self.canvas_px):
            raise ValueError(f"canvas_px must be multiples of 32, got {list(self.canvas_px)}")

    @property
    def kernel_size(self) -> int:
        """Numbers of one kernel."""
        return self.map_channels + POSITION_TERMS
