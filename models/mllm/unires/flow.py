"""The multi-granularity flow: boxes of objects and parts as tokens of a high-resolution map, which
look at the image tokens.

The paper describes the flow (it is MG-LLaVA's) and an "interactive feature exploitation module"
without sizes. Ours: RoIAlign by bilinear samples, one token a box, an embedding of its granularity
and one of its place, and one gated layer of attention to the image tokens, whose gate begins at
zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ureca.models.mllm.unires.config import FlowConfig

OBJECT, PART = 0, 1


class GranularFlow(nn.Module):
    """Box tokens for the language model."""

    def __init__(self, channels: int, config: FlowConfig, *, width: int) -> None:
        super().__init__()
        self.cells = config.cells
        self.inner = nn.Linear(channels * config.cells**2, config.inner)
        self.outer = nn.Linear(config.inner, width)
        self.granularity = nn.Parameter(torch.zeros(2, width))
        self.place = nn.Linear(4, width)
        self.norm = nn.LayerNorm(width)
        self.look = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, detail: Tensor, objects: Tensor, parts: Tensor, image: Tensor) -> Tensor:
        """detail f32 [1, C, h, w], boxes f32 [N, 4] and [M, 4] (xyxy, 0..1), image tokens [P, d] ->
        tokens [N + M, d].
        """
        boxes = torch.cat([objects, parts])
        kinds = torch.cat(
            [
                self.granularity[OBJECT].expand(objects.shape[0], -1),
                self.granularity[PART].expand(parts.shape[0], -1),
            ]
        )
        seen = sample_boxes(detail, boxes, self.cells).flatten(1)
        tokens = self.outer(nn.functional.gelu(self.inner(seen)))
        tokens = tokens + kinds + self.place(boxes)
        if not boxes.shape[0]:
            return tokens
        keys = image[None].to(tokens.dtype)
        found, _ = self.look(self.norm(tokens)[None], keys, keys, need_weights=False)
        return tokens + torch.tanh(self.gate) * found[0]

    @torch.no_grad()
    def scale_to_embeddings(self, deviation: float) -> None:
        """Scale a fresh flow to word embeddings of a `deviation`: its tokens must not dominate."""
        drawn = torch.randn(64, self.inner.in_features, device=self.inner.weight.device)
        said = self.outer(nn.functional.gelu(self.inner(drawn)))
        self.outer.weight.mul_(deviation / said.std())
        self.outer.bias.zero_()
        self.place.weight.mul_(deviation)
        self.place.bias.zero_()


def sample_boxes(maps: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """Sample a map [1, C, h, w] bilinearly at the centres of `cells` x `cells` cells of boxes f32
    [N, 4] (xyxy, 0..1) -> [N, C, cells, cells].
    """
    steps = (torch.arange(cells, device=boxes.device, dtype=boxes.dtype) + 0.5) / cells
    size = boxes[:, 2:] - boxes[:, :2]
    line = (boxes[:, None, :2] + size[:, None] * steps[None, :, None]) * 2 - 1
    xs = line[:, None, :, 0].expand(-1, cells, -1)
    ys = line[:, :, None, 1].expand(-1, -1, cells)
    points = torch.stack([xs, ys], dim=-1).reshape(1, -1, cells, 2)
    if not boxes.shape[0]:
        return maps.new_zeros(0, maps.shape[1], cells, cells)
    found = nn.functional.grid_sample(maps, points, align_corners=False)
    return found[0].unflatten(1, (boxes.shape[0], cells)).transpose(0, 1)
