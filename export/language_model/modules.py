"""The graphs of a captioner as modules with flat tensor interfaces.

They call only what every family has, so a new family needs nothing here: `Mllm.encode_picture`,
`Mllm.encode_tower_regions`, `Mllm.regions`, and a decoder of `transformers` with `layers`,
`rotary_emb` and `norm` whose attention is looked up in the package's registry.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from ureca.export.graphs.wrappers import choose_greedy
from ureca.models.mllm.network.model import Mllm
from ureca.models.nano.language import append_to_cache

_BLOCKED = -1e9
"""Added to scores of padding; finite, so that a row of padding alone is no NaN."""


class VisionGraph(nn.Module):
    """`vision`: tiles [T, 3, S, S] of one picture -> image tokens [1, P, d] and the maps."""

    def __init__(self, model: Mllm) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Return the tokens, then the maps in the order of `list_maps`."""
        seen = self.model.encode_picture(pixel_values)
        return (seen.tokens[None], *list_maps(seen.maps))


class RegionTokensGraph(nn.Module):
    """`regions`: masks [N, T, M, M], image tokens [1, P, d] and maps of their picture -> region
    tokens [N, K, d].
    """

    def __init__(self, model: Mllm, *, layout: Any) -> None:  # a `TreeSpec` of the maps
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, masks: Tensor, image_tokens: Tensor, maps: list[Tensor]) -> Tensor:
        """Maps as vision returned them."""
        said = self.model.encode_tower_regions(masks, tree.tree_unflatten(maps, self.layout))
        return self.model.regions(masks, image_tokens[0], said)


class FrameGraph(nn.Module):
    """The beginning of `lm`: what all layers share."""

    def __init__(self, model: Mllm) -> None:
        super().__init__()
        self.rotary = model.language.rotary_emb

    def forward(
        self, x: Tensor, positions: Tensor, padding: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [N, Q, d], positions i64 [A, N, Q], padding i64 [N], own [Hkv, N, S, hd] -> cosines and
        sines [N, Q, hd], and the values added to own scores [N, 1, Q, S + Q].
        """
        cos, sin = self.rotary(x, positions if positions.shape[0] > 1 else positions[0])
        return cos, sin, _make_mask(x, padding, past=own.shape[2])


class LayerGraph(nn.Module):
    """One layer of the decoder. Equal layers are traced once."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        known = inspect.signature(layer.self_attn.forward).parameters  # type: ignore[union-attr]
        self.cache_argument = "cache" if "cache" in known else "past_key_values"

    def forward(  # noqa: PLR0917 - one per tensor of the graph
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        prefix_k: Tensor,
        prefix_v: Tensor,
        own_k: Tensor,
        own_v: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """hidden [N, Q, d], prefix [Hkv, 1, P, hd], own [Hkv, N, S, hd] -> hidden, grown own."""
        number = int(self.layer.self_attn.layer_idx)  # type: ignore[union-attr, arg-type]
        cache = _GrowingCache({number: (own_k, own_v)})
        answer = self.layer(
            hidden,
            attention_mask=mask,
            position_embeddings=(cos, sin),
            use_cache=True,
            ureca_prefix={number: (prefix_k[:, 0], prefix_v[:, 0])},
            **{self.cache_argument: cache},
        )
        return (answer[0] if isinstance(answer, tuple) else answer, *cache.layers[number])


class HeadGraph(nn.Module):
    """The end of `lm`: hidden [N, Q, d] -> logits [N, V] of the last place, argmax [N, 1] and its
    log-probability [N, 1].
    """

    def __init__(self, model: Mllm) -> None:
        super().__init__()
        self.norm, self.output = model.language.norm, model.base.get_output_embeddings()

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three."""
        return choose_greedy(self.output(self.norm(hidden[:, -1:]))[:, 0])


class _GrowingCache:
    """The part of a cache of `transformers` that a decoder uses. Layers are [Hkv, N, S, hd]."""

    def __init__(self, layers: dict[int, tuple[Tensor, Tensor]]) -> None:
        self.layers = layers

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append [N, Hkv, T, hd]; return the grown ones as [N, Hkv, S + T, hd]."""
        pairs = zip(self.layers[layer_idx], (key, value), strict=True)
        keys, values = (append_to_cache(old, new.transpose(0, 1)) for old, new in pairs)
        self.layers[layer_idx] = keys, values
        return keys.transpose(0, 1), values.transpose(0, 1)


def list_maps(maps: Any) -> list[Tensor]:
    """Return the tensors of a tower's maps, in any nesting of tuples, lists and dictionaries."""
    return [leaf for leaf in tree.tree_leaves(maps) if leaf is not None]


def _make_mask(x: Tensor, padding: Tensor, *, past: int) -> Tensor:
    """Return the values added to own scores: [N, 1, Q, S + Q]. Later places and padding are
    masked.
    """
    steps = torch.arange(x.shape[1], device=x.device) + past
    keys = torch.arange(past + x.shape[1], device=x.device)
    seen = (keys[None, None] <= steps[None, :, None]) & (keys >= padding[:, None])[:, None]
    return torch.where(seen, 0.0, _BLOCKED).to(x.dtype)[:, None]
