"""Sizes of FineCaption's picture tower, read from its configuration; no model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ureca.errors import WeightsError

FINECAPTION = "ureca_finecaption"
"""`model_type` of a base that `ureca mllm join --config configs/finecaption/*.yaml` made."""
CLIP, CONVNEXT, SAM = "clip", "convnext", "sam"
STRIDE_PX = 32
"""Pixels of a large picture along a side of one image token: 1,024 px are 32 x 32 tokens."""


@dataclass(frozen=True)
class EncoderSize:
    """Output of one encoder: a map of `side` x `side` cells with `channels`."""

    side: int
    channels: int


@dataclass(frozen=True)
class TowerSizes:
    """The maps of all encoders, and the grid on which they are joined along their channels."""

    tile_px: int
    mask_px: int
    """Side of CLIP's own picture, and of a mask."""
    clip: EncoderSize
    large: dict[str, EncoderSize]
    """Encoders of the large picture by name, in the order of their channels."""

    @property
    def grid_side(self) -> int:
        """Image tokens along a side: of the large picture, or of CLIP where it is alone."""
        return self.tile_px // STRIDE_PX if self.large else self.clip.side

    def shuffle(self, name: str) -> int:
        """Cells of a large map along a side of one token: they become channels of it."""
        return self.large[name].side // self.grid_side

    @property
    def channels(self) -> dict[str, int]:
        """Channels that each encoder adds to a token, in order."""
        large = {n: one.channels * self.shuffle(n) ** 2 for n, one in self.large.items()}
        return {CLIP: self.clip.channels, **large}

    def check(self) -> TowerSizes:
        """Return the same. Raises `WeightsError` when the maps do not fit one grid."""
        if self.large and self.tile_px % STRIDE_PX:
            raise WeightsError(f"tile_px is {self.tile_px}: expected a multiple of {STRIDE_PX}")
        for name, one in self.large.items():
            if one.side % self.grid_side:
                raise WeightsError(
                    f"{name} gives {one.side} x {one.side} cells: expected a multiple of the "
                    f"{self.grid_side} tokens along a side of {self.tile_px} px"
                )
        return self


def read_sizes(config: Any) -> TowerSizes:  # a `FineTowerConfig`
    """Return the sizes of a tower. Raises `WeightsError` when its encoders do not fit together."""
    clip, tile = config.clip, int(config.image_size)
    large: dict[str, EncoderSize] = {}
    try:
        side = clip["image_size"] // clip["patch_size"]
        if (net := config.convnext) is not None:
            widths = net["hidden_sizes"]
            stride = net["patch_size"] * 2 ** (len(widths) - 1)
            large[CONVNEXT] = EncoderSize(tile // stride, widths[-1])
        if (sam := config.sam) is not None:
            if sam["image_size"] != tile:
                raise WeightsError(f"sam reads {sam['image_size']} px, tile_px is {tile}")
            large[SAM] = EncoderSize(tile // sam["patch_size"], sam["output_channels"])
        return TowerSizes(
            tile, clip["image_size"], EncoderSize(side, clip["hidden_size"]), large
        ).check()
    except (KeyError, TypeError) as error:
        raise WeightsError(f"the tower's configuration is incomplete: {error!r}") from error
