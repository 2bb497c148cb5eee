"""Split-prefix attention for language models of `transformers`: the image's keys and values stay at
batch 1 and are never copied per region.

Scores are [q @ prefix | q @ own], joined before one softmax, so the result is exact (as in
Hydragen, arXiv 2402.05099; `models/nano/language.py` does the same). It is an attention function in
the package's own registry. A model set to `NAME` runs as with `sdpa` until a forward pass gets
`ureca_prefix`, keys and values by layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ureca.extras import require

EXTRA = "mllm"
NAME = "ureca_split_prefix"

KV = tuple[Tensor, Tensor]
Prefix = tuple[KV, ...]
"""Keys and values of every layer, each [Hkv, P, hd]."""


def register_attention() -> None:
    """Register `NAME` with `transformers`; a second call changes nothing."""
    package = require("transformers", extra=EXTRA)
    masks = require("transformers.masking_utils", extra=EXTRA)
    package.AttentionInterface.register(NAME, attend_split_prefix)
    masks.AttentionMaskInterface.register(NAME, masks.sdpa_mask)


def attend_split_prefix(
    module: Any,  # an attention layer of any model
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ureca_prefix: Prefix | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [N, H, T, hd], own keys and values [N, Hkv, S, hd] -> [N, T, H, hd].

    With a prefix, `attention_mask` is added to the own scores and must be given: f32 [N, 1, T, S].
    """
    if ureca_prefix is None:
        sdpa = require("transformers.integrations.sdpa_attention", extra=EXTRA)
        stock: tuple[Tensor, None] = sdpa.sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return stock
    if attention_mask is None:
        raise ValueError("split-prefix attention needs the mask of the rows' own tokens")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _attend(
        query * scale, ureca_prefix[module.layer_idx], (key, value), attention_mask
    ), None


def _attend(query: Tensor, prefix: KV, own: KV, mask: Tensor) -> Tensor:
    """Compute the prefix part as one matrix product per head over the queries of all rows."""
    rows, heads, steps, dim = query.shape
    shared, length = own[0].shape[1], prefix[0].shape[1]
    group = heads // shared
    # [Hkv, N, G, T, hd]: queries of one key-value head together
    folded = query.view(rows, shared, group, steps, dim).transpose(0, 1)
    flat = folded.reshape(shared, rows * group * steps, dim)
    keys, values = (each.transpose(0, 1) for each in own)
    by_row = folded.reshape(shared, rows, group * steps, dim)
    to_own = (by_row @ keys.transpose(2, 3)).view(shared, rows, group, steps, -1)
    to_own = (to_own + mask.transpose(0, 1)[:, :, None]).view(shared, rows * group * steps, -1)
    scores = torch.cat([flat @ prefix[0].transpose(1, 2), to_own], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    mixed = weights[..., :length] @ prefix[1]
    own_weights = weights[..., length:].reshape(shared, rows, group * steps, -1)
    mixed = mixed + (own_weights @ values).reshape(shared, rows * group * steps, dim)
    back = mixed.view(shared, rows, group, steps, dim).permute(1, 3, 0, 2, 4)
    return back.reshape(rows, steps, heads, dim)
