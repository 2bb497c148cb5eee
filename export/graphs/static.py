"""Exports `lm_static`: the language model over own caches of fixed length, which it updates in
place.

CUDA graphs need fixed shapes and addresses. TensorRT updates a cache in place only if it is input
and output of one address (`KVCacheUpdate`, from ONNX `TensorScatter`, opset 24). The cache is [H,
N, S_max, hd]. ONNX calls its first axis the batch, which is valid because all heads write the same
slots. Slots that are not written yet are masked, so they need not be cleared.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ureca.export.graphs.wrappers import choose_greedy, pair_by_layer
from ureca.models.nano.network import Captioner

OPSET = 24


class LmStatic(nn.Module):
    """As `Lm`, but new keys and values are written to slots `position`, `position + 1`, ... of the
    caches.

    `positions` bounds P + S_max: the rotary table is cut to it.
    """

    def __init__(self, model: Captioner, *, positions: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.language.rope = model.language.rope[:positions].clone()

    def forward(
        self, x: Tensor, position: Tensor, prefix: list[Tensor], own: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """x [N, Q, d], position i64 [1]; keys of all layers come first, then their values."""
        language = self.model.language
        steps = torch.arange(x.shape[1], device=x.device) + position
        slots = torch.arange(own[0].shape[2], device=x.device)
        bias = torch.where(slots[None, :] <= steps[:, None], 0.0, -1e9).to(x.dtype)
        where = position.expand(own[0].shape[0])
        hidden, caches = language.run(
            x,
            pair_by_layer(prefix),
            pair_by_layer(own),
            rope=language.rope[steps + prefix[0].shape[2]],
            bias=bias,
            grow=lambda cache, new: _scatter(cache, new, where),
        )
        keys, values = zip(*caches, strict=True)
        return (*choose_greedy(language.logits(hidden[:, -1])), *keys, *values)


def _scatter(cache: Tensor, new: Tensor, where: Tensor) -> Tensor:
    """Apply ONNX `TensorScatter` along the third axis; `where` i64 [H] is the first slot of each
    head.
    """
    return torch.onnx.ops.symbolic(
        "TensorScatter",
        (cache, new, where),
        {"axis": 2},
        dtype=cache.dtype,
        shape=cache.shape,
        version=OPSET,
    )
