"""Wraps the captioner's methods as modules with flat tensor interfaces for export."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ureca.models.nano.language import KV
from ureca.models.nano.network import Captioner


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
        logits, grown = self.model.run_lm(x, pair_by_layer(prefix), pair_by_layer(own))
        keys, values = zip(*grown, strict=True)
        return (*choose_greedy(logits), *keys, *values)


class LmWhole(Lm):
    """As `Lm`, with the last layer computed for every position.

    torch-tensorrt cannot shape what follows a slice from the end of a free dimension.
    """

    def forward(self, x: Tensor, prefix: list[Tensor], own: list[Tensor]) -> tuple[Tensor, ...]:
        """Keys of all layers come first, then their values."""
        language = self.model.language
        hidden, grown = language(x, pair_by_layer(prefix), pair_by_layer(own))
        keys, values = zip(*grown, strict=True)
        return (*choose_greedy(language.logits(hidden[:, -1])), *keys, *values)


class ScoreGraph(nn.Module):
    """`score`: given texts after their regions -> log-probability of every target, [N, Q].

    The keys and values of the texts themselves are not returned. `positions`: as in `Lm`.
    """

    def __init__(self, model: Captioner, *, positions: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.language.rope = model.language.rope[:positions].clone()

    def forward(
        self, x: Tensor, targets: Tensor, prefix: list[Tensor], own: list[Tensor]
    ) -> Tensor:
        """x [N, Q, d], targets i64 [N, Q]: the word that follows each position."""
        return self.model.score(x, targets, pair_by_layer(prefix), pair_by_layer(own))


class GatherRows(nn.Module):
    """`gather`: rows i64 [M] of every own cache [H, N, S, hd]."""

    def forward(self, rows: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
        """Caches [H, M, S, hd]."""
        return tuple(cache.index_select(1, rows) for cache in own)


def choose_greedy(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, V] -> the logits, their argmax [N, 1] and its log-probability [N, 1]."""
    best = logits.amax(dim=-1, keepdim=True)
    # `logsumexp` would search the maximum again, which is slow in ONNX Runtime.
    logprob = -torch.log(torch.exp(logits - best).sum(dim=-1, keepdim=True))
    return logits, logits.argmax(dim=-1, keepdim=True), logprob


def pair_by_layer(flat: list[Tensor]) -> tuple[KV, ...]:
    """Keys of all layers, then values of all layers -> (key, value) per layer."""
    layers = len(flat) // 2
    return tuple(zip(flat[:layers], flat[layers:], strict=True))
