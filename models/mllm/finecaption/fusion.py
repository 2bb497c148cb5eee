"""Image tokens of regions from FineCaption's tower: the mask-free encoders run once for a frame.

The adapter's first layer is linear, so it is a sum over the encoders' channels:

    W [clip | convnext | sam] + b = W0 clip(mask) + (W1 convnext + W2 sam + b)

The bracket does not depend on the mask; all regions of a frame share it. CLIP's part is enlarged
behind W0, which gives the same, as both are linear. This is exact, up to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ureca.models.mllm.finecaption.sizes import CLIP


class FrameMaps(NamedTuple):
    """What all regions of one picture of T tiles share."""

    small: Tensor
    """CLIP's input without the mask [T, 3, m, m]."""
    partial: Tensor
    """The adapter's first layer over the mask-free encoders, bias included [T, p, d]; [T, 1, d]
    where there are none.
    """


def encode_frame(base: Any, tiles: Tensor) -> FrameMaps:
    """Run everything that does not depend on a mask; tiles [T, 3, S, S] of one picture."""
    tower, adapter = base.model.vision_tower, base.model.multi_modal_projector
    weights = _split_weights(base)
    partial = adapter.linear_1.bias.expand(len(tiles), 1, -1)
    for name, tokens in tower.encode_large(tiles).items():
        partial = partial + nn.functional.linear(tokens, weights[name])
    return FrameMaps(tower.shrink(tiles), partial)


def encode_regions(base: Any, masks: Tensor, maps: FrameMaps) -> Tensor:
    """masks [N, T, m, m] of 0..1 of that picture -> image tokens of every region [N, T * p, d]."""
    tower, adapter = base.model.vision_tower, base.model.multi_modal_projector
    small = maps.small[None].expand(masks.shape[0], -1, -1, -1, -1).flatten(0, 1)
    cells = tower.encode_small(small, masks.flatten(0, 1))
    first = tower.enlarge(nn.functional.linear(cells, _split_weights(base)[CLIP]))
    tokens = first.unflatten(0, masks.shape[:2]) + maps.partial
    return adapter.linear_2(adapter.act(tokens)).flatten(1, 2)


def encode_whole(base: Any, tiles: Tensor) -> Tensor:
    """Return the tokens of tiles [T, 3, S, S] as one region each, whole tiles [T, p, d]."""
    side = base.model.vision_tower.sizes.mask_px
    masks = torch.ones(len(tiles), side, side, device=tiles.device)
    tokens: Tensor = base.model.multi_modal_projector(base.model.vision_tower(tiles, masks))
    return tokens


def encode_regions_alone(base: Any, tiles: Tensor, masks: Tensor) -> Tensor:
    """Return the same without sharing: all encoders run for every region. For tests and
    measurements.
    """
    every = tiles[None].expand(len(masks), -1, -1, -1, -1).flatten(0, 1)
    joined = base.model.vision_tower(every, masks.flatten(0, 1))
    tokens: Tensor = base.model.multi_modal_projector(joined)
    return tokens.unflatten(0, (len(masks), -1)).flatten(1, 2)


def _split_weights(base: Any) -> dict[str, Tensor]:
    """Return the columns of the adapter's first layer that belong to each encoder."""
    channels = base.model.vision_tower.sizes.channels
    parts = base.model.multi_modal_projector.linear_1.weight.split(list(channels.values()), dim=1)
    return dict(zip(channels, parts, strict=True))
