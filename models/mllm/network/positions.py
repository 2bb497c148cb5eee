"""Computes the positions of prompt tokens for language models with three position dimensions.

Multimodal rotary positions (Qwen2-VL, arXiv 2409.12191, section 2.1): a text token has the same
position in time, height and width. The tokens of an image have one time; their rows and columns
count from there. Counting continues behind the largest position. Everything after the image block
is text, so a region's own tokens and all new ones have one number again: only the shared prefix has
three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ureca.models.mllm.prompt import count_positions


@dataclass(frozen=True, eq=False)
class PromptOpening:
    """A prompt up to its mask block, the same for all regions of an image.

    `x` f32 [1, P, d]; `image` bool [P], the places of image tokens; `positions` i64 [3, 1, P], None
    where positions are 0..P-1; `goes_on`, the position of the token behind.
    """

    x: Tensor
    image: Tensor
    positions: Tensor | None
    goes_on: int

    def extend_positions(self, length: int) -> Tensor | None:
        """Return positions [3, 1, length] of a prompt that continues with text."""
        if self.positions is None:
            return None
        more = torch.arange(length - self.x.shape[1], device=self.x.device) + self.goes_on
        return torch.cat([self.positions, more.expand(3, 1, -1)], dim=2)


def make_opening(x: Tensor, image: Tensor, *, side: int | None) -> PromptOpening:
    """Make the opening. `side`: image tokens along a side of a tile, for models of three
    dimensions.
    """
    if side is None:
        return PromptOpening(x, image, None, x.shape[1])
    positions, goes_on = compute_positions(image, side)
    return PromptOpening(x, image, positions[:, None].to(x.device), goes_on)


def compute_positions(image: Tensor, side: int) -> tuple[Tensor, int]:
    """Return positions i64 [3, P] for tokens of which `image` bool [P] are tiles of side x side,
    and the position behind the last one.
    """
    positions, goes_on = count_positions(image.cpu().numpy(), side=side)
    return torch.from_numpy(positions), goes_on
