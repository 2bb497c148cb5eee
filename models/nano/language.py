"""A small causal language model whose attention keeps the image prefix separate from each region's
own tokens.

Pre-norm blocks with RMSNorm, rotary positions and SwiGLU; token embeddings are tied to the output.

Split-prefix attention (as in Hydragen, arXiv 2402.05099): the keys and values of the image tokens
exist once per image, and R regions read them. Scores are [q @ prefix | q @ own], joined before one
softmax, so the result is exact and the prefix is never copied per region. Rows are ordered by
image: row `b * R + r` is region r of image b. The node always has one image (B = 1); training has
many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ureca.models.config import LanguageConfig

KV = tuple[Tensor, Tensor]
"""Keys and values of one layer. Prefix: [H, B, P, hd]; own: [H, N, S, hd]. P and S may be 0."""

Grow = Callable[[Tensor, Tensor], Tensor]
"""(cache [H, N, S, hd], new [H, N, T, hd]) -> the cache with the new positions in it."""

_MAX_POSITIONS = 2048
_ROPE_BASE = 10_000.0


class RMSNorm(nn.Module):
    """Root-mean-square normalisation in plain operators, which every exporter accepts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        # ONNX Runtime recognises this form as the norm and runs it as one operator.
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    """Multi-head attention over a shared prefix and the row's own keys and values."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self,
        x: Tensor,
        *,
        rope: Tensor,
        bias: Tensor,
        prefix: KV,
        own: KV,
        grow: Grow,
        last: bool = False,
    ) -> tuple[Tensor, KV]:
        """x [N, T, d] -> ([N, T, d], own KV grown by T); with `last` only [N, 1, d], the last
        position.
        """
        rows, steps, width = x.shape
        qkv = self.qkv(x).view(rows, steps, 3, self.heads, self.head_dim).permute(2, 3, 0, 1, 4)
        (query, key), value = apply_rope(qkv[:2], rope), qkv[2]
        grown = grow(own[0], key), grow(own[1], value)
        if last:
            query, bias = query[:, :, -1:], bias[-1:]
        mixed = _attend(query * self.head_dim**-0.5, prefix, grown, bias)
        return self.out(mixed.permute(1, 2, 0, 3).reshape(rows, -1, width)), grown


def _attend(query: Tensor, prefix: KV, own: KV, bias: Tensor) -> Tensor:
    """query [H, N, T, hd] -> [H, N, T, hd]; the prefix side is one GEMM per picture over all its
    regions.
    """
    heads, rows, steps, dim = query.shape
    pictures, length = prefix[0].shape[1], prefix[0].shape[2]
    folded = query.reshape(heads, pictures, (rows // pictures) * steps, dim)
    to_prefix = (folded @ prefix[0].transpose(2, 3)).reshape(heads, rows, steps, length)
    to_own = query @ own[0].transpose(2, 3) + bias
    weights = torch.softmax(torch.cat([to_prefix, to_own], dim=-1), dim=-1)
    on_prefix = weights[..., :length].reshape(heads, pictures, (rows // pictures) * steps, length)
    from_prefix = (on_prefix @ prefix[1]).reshape(heads, rows, steps, dim)
    return from_prefix + weights[..., length:] @ own[1]


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each with a norm before it and a residual around
    it.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.norm_attention, self.norm_ff = RMSNorm(config.width), RMSNorm(config.width)
        self.attention = Attention(config)
        self.gate_up = nn.Linear(config.width, 2 * config.ff_width, bias=False)
        self.down = nn.Linear(config.ff_width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        *,
        rope: Tensor,
        bias: Tensor,
        prefix: KV,
        own: KV,
        grow: Grow,
        last: bool = False,
    ) -> tuple[Tensor, KV]:
        mixed, grown = self.attention(
            self.norm_attention(x),
            rope=rope,
            bias=bias,
            prefix=prefix,
            own=own,
            grow=grow,
            last=last,
        )
        x = (x[:, -1:] if last else x) + self.dropout(mixed)
        gate, up = self.gate_up(self.norm_ff(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(gate) * up)), grown


class LanguageModel(nn.Module):
    """Embeddings, blocks, final norm and tied output."""

    rope: Tensor

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.register_buffer("rope", _make_rope_table(config.head_dim), persistent=False)
        self.apply(_init_weights)

    def make_empty_kv(self, rows: int) -> tuple[KV, ...]:
        """Return KV of length 0 for every layer."""
        shape = (self.config.heads, rows, 0, self.config.head_dim)
        zero = self.rope.new_zeros(shape)
        return tuple((zero, zero) for _ in self.blocks)

    def forward(
        self, x: Tensor, prefix: tuple[KV, ...], own: tuple[KV, ...], *, last: bool = False
    ) -> tuple[Tensor, tuple[KV, ...]]:
        """x [N, T, d] at positions P + S + (0..T-1) -> (normed hidden [N, T, d], own KV of length S
        + T); with `last` the hidden state of the last position only, [N, 1, d].
        """
        start, past = prefix[0][0].shape[2], own[0][0].shape[2]
        steps = torch.arange(x.shape[1], device=x.device)
        rope = self.rope[steps + (start + past)]
        keys = torch.arange(past + x.shape[1], device=x.device)
        visible = keys[None, :] <= steps[:, None] + past
        bias = torch.where(visible, 0.0, -1e9).to(x.dtype)
        return self.run(x, prefix, own, rope=rope, bias=bias, grow=append_to_cache, last=last)

    def run(
        self,
        x: Tensor,
        prefix: tuple[KV, ...],
        own: tuple[KV, ...],
        *,
        rope: Tensor,
        bias: Tensor,
        grow: Grow,
        last: bool = False,
    ) -> tuple[Tensor, tuple[KV, ...]]:
        """Run the blocks at given positions; `grow` decides where new keys and values are stored.

        With `last` the top block computes the last position alone. Its other positions are needed
        only as keys and values. With four blocks that saves a sixth of a prompt's products.
        """
        grown: list[KV] = []
        given: dict[str, Any] = {"rope": rope, "bias": bias, "grow": grow}
        for depth, (block, shared, mine) in enumerate(zip(self.blocks, prefix, own, strict=True)):
            top = last and depth == len(self.blocks) - 1
            x, kv = block(x, prefix=shared, own=mine, last=top, **given)
            grown.append(kv)
        return self.norm(x), tuple(grown)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., d] -> [..., vocabulary] through the tied embedding."""
        return F.linear(hidden, self.embedding.weight)


def append_to_cache(cache: Tensor, new: Tensor) -> Tensor:
    """Return a cache that grew: [H, N, S + T, hd]."""
    return torch.cat([cache, new], dim=2).contiguous()


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Apply rotary position embedding (arXiv 2104.09864); x [..., T, hd], rope [T, 2, hd]."""
    first, second = x.chunk(2, dim=-1)
    return x * rope[:, 0] + torch.cat([second, first], dim=-1) * rope[:, 1]


def _make_rope_table(head_dim: int) -> Tensor:
    """Return cosines and sines f32 [positions, 2, hd]. The first half of the sines is negated."""
    frequency = _ROPE_BASE ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    angle = torch.arange(_MAX_POSITIONS).float()[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)], dim=1)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
