"""The captioner's methods as modules with flat tensor interfaces: what gets exported."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ureca.models.nano.captioner import Captioner
from ureca.models.nano.language import KV


class Vision(nn.Module):
    """`vision`: pixels [T, 3, S, S] -> image tokens [1, P, d] and four maps."""

    def __init__(self, model: Captioner) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Flat outputs: tokens, fine, middle, coarse, colour."""
        tokens, maps = self.model.vision(pixel_values)
        return (tokens, *maps)


class RegionsGraph(nn.Module):
    """`regions`: masks, boxes and maps of one picture -> region tokens [N, K, d]."""

    def __init__(self, model: Captioner) -> None:
        super().__init__()
        self.model = model

    def forward(  # noqa: PLR0917 - one per tensor of the graph
        self,
        masks: Tensor,
        boxes: Tensor,
        fine: Tensor,
        middle: Tensor,
        coarse: Tensor,
        colour: Tensor,
    ) -> Tensor:
        """Maps as four inputs."""
        return self.model.regions(masks, boxes, (fine, middle, coarse, colour))


class Lm(nn.Module):
    """`lm`: one pass -> logits [N, V], argmax [N, 1], its log-probability [N, 1], grown KV.

    `positions` bounds P + S + Q: the rotary table is cut to it (a longer call fails in the graph).
    """

    def __init__(self, model: Captioner, *, positions: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.language.rope = model.language.rope[:positions].clone()

    def forward(self, x: Tensor, prefix: list[Tensor], own: list[Tensor]) -> tuple[Tensor, ...]:
        """Keys of all layers come first, then their values."""
        logits, grown = self.model.lm(x, paired(prefix), paired(own))
        keys, values = zip(*grown, strict=True)
        return (*chosen(logits), *keys, *values)


def chosen(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, V] -> themselves, argmax [N, 1] and its log-probability [N, 1]."""
    best = logits.amax(dim=-1, keepdim=True)
    # `logsumexp` would look for the largest once more, and slowly so in ONNX Runtime.
    logprob = -torch.log(torch.exp(logits - best).sum(dim=-1, keepdim=True))
    return logits, logits.argmax(dim=-1, keepdim=True), logprob


def paired(flat: list[Tensor]) -> tuple[KV, ...]:
    """Keys of all layers, then values of all layers -> (key, value) per layer."""
    layers = len(flat) // 2
    return tuple(zip(flat[:layers], flat[layers:], strict=True))
