"""Where the tokens of a prompt stand, for language models that count in three dimensions.

Multimodal rotary positions (Qwen2-VL, arXiv 2409.12191, section 2.1): a token of text stands at the
same place in time, height and width; the tokens of an image stand at one time, and their rows and
columns count from there; counting goes on behind the largest. Everything after the image block is
text, so a region's own tokens and all new ones have one number again: only the shared prefix knows
of three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Opening:
    """A prompt up to its mask block, the same for all regions of a picture.

    `x` f32 [1, P, d]; `image` bool [P], the places of image tokens; `positions` i64 [3, 1, P], None
    where positions are 0..P-1; `goes_on`, the position of the token behind.
    """

    x: Tensor
    image: Tensor
    positions: Tensor | None
    goes_on: int

    def whole(self, length: int) -> Tensor | None:
        """Positions [3, 1, length] of a prompt that goes on with text."""
        if self.positions is None:
            return None
        more = torch.arange(length - self.x.shape[1], device=self.x.device) + self.goes_on
        return torch.cat([self.positions, more.expand(3, 1, -1)], dim=2)


def opening(x: Tensor, image: Tensor, *, side: int | None) -> Opening:
    """`side`: image tokens along a side of a tile, for models of three dimensions."""
    if side is None:
        return Opening(x, image, None, x.shape[1])
    positions, goes_on = spread(image, side)
    return Opening(x, image, positions[:, None].to(x.device), goes_on)


def spread(image: Tensor, side: int) -> tuple[Tensor, int]:
    """Positions i64 [3, P] for tokens of which `image` bool [P] are tiles of side x side, and the
    position behind the last one.
    """
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    tile = torch.stack([torch.zeros(side, side, dtype=torch.long), down, right]).flatten(1)
    one = torch.zeros(3, 1, dtype=torch.long)
    places, at, seen, flags = [], 0, 0, image.tolist()
    while seen < len(flags):
        part, steps = (tile, side) if flags[seen] else (one, 1)
        places.append(part + at)
        at, seen = at + steps, seen + part.shape[1]
    return torch.cat(places, dim=1), at
