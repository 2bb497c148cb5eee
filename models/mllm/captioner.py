"""URECA over a base model: mask tokens after the image block, through `inputs_embeds`.

The base's own forward pass is not used: its vision part and its language model are called one after
the other, so that the image prefix can be shared by all regions of a picture.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ureca.errors import EngineError
from ureca.models.mllm.config import MllmConfig
from ureca.models.mllm.families import family_of, language_of, tile_px, tile_side
from ureca.models.mllm.masks import FeatureToken, MaskEncoder
from ureca.models.mllm.positions import Opening, opening
from ureca.models.mllm.split import NAME, Prefix, register


class Mllm(nn.Module):
    """A base model with a mask encoder. Rows are regions of one picture, or of one picture each."""

    def __init__(self, base: Any, config: MllmConfig) -> None:  # a `transformers` model
        super().__init__()
        self.config, self.family = config, family_of(config.family)
        _check_sizes(base, config)
        register()
        language = language_of(base, self.family)
        language.set_attn_implementation(NAME)
        self.base = base
        self.width = int(base.config.get_text_config().hidden_size)
        self.masks = MaskEncoder(config.mask, width=self.width)
        self.marks = nn.Parameter(torch.zeros(2, self.width))
        """Added to the embeddings of the two tokens around the mask block: these are new words, and
        the base's embeddings are frozen."""
        self.feature = None
        if config.mask.feature_token:
            per_tile = config.picture.tokens_per_tile
            self.feature = FeatureToken(width=self.width, tokens_per_tile=per_tile)

    @property
    def language(self) -> Any:
        """The decoder without its output layer."""
        return getattr(self.base.model, self.family.language)

    @property
    def dtype(self) -> torch.dtype:
        """What the language model computes in."""
        return self.base.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.marks.device

    def vision(self, tiles: Tensor) -> Tensor:
        """Tiles f32 [T, 3, S, S] of ONE picture -> image tokens [T * p, d]."""
        tokens = self.family.see(self.base, tiles.to(self.device, self.dtype))
        return tokens.flatten(0, 1)

    def regions(self, masks: Tensor, image_tokens: Tensor) -> Tensor:
        """masks f32 [N, T, M, M] of 0..1 and the tokens of their picture -> [N, K, d]."""
        masks = masks.to(self.device)
        tokens = self.masks(masks)
        if self.feature is not None:
            tokens = torch.cat([tokens, self.feature(masks, image_tokens)], dim=1)
        return tokens.to(self.dtype)

    def embed(self, ids: Tensor, *, mark_ids: tuple[int, ...] = ()) -> Tensor:
        """Token ids [...] -> [..., d]; the marks around a mask block get their trained part."""
        x: Tensor = self.base.get_input_embeddings()(ids)
        for mark, mark_id in zip(self.marks, mark_ids, strict=False):
            x = x + (ids == mark_id)[..., None] * mark.to(x.dtype)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [..., V]."""
        return self.base.get_output_embeddings()(hidden)

    def forward(self, x: Tensor, attention_mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """A whole prompt without a cache: x [N, L, d], mask [N, L] of 0 and 1, positions [3, N, L]
        where they have three dimensions (`Opening.whole`) -> hidden [N, L, d].

        What training runs; rows are padded on the right.
        """
        answer = self.language(
            inputs_embeds=x, attention_mask=attention_mask, position_ids=positions, use_cache=False
        )
        return answer.last_hidden_state

    def opening(self, x: Tensor, image: Tensor) -> Opening:
        """The prompt's first part x [1, P, d] with its positions; `image` bool [P]."""
        side = math.isqrt(self.config.picture.tokens_per_tile)
        return opening(x, image, side=side if self.family.axes == 3 else None)

    def prefix(self, first: Opening) -> Prefix:
        """The shared keys and values of the prompt's first part."""
        cache = _cache()
        self.language(
            inputs_embeds=first.x,
            position_ids=first.positions,
            past_key_values=cache,
            use_cache=True,
        )
        return tuple((layer.keys[0], layer.values[0]) for layer in cache.layers)


def placed(x: Tensor, ids: Tensor, token_id: int, features: Tensor) -> Tensor:
    """x [..., d] with `features` in order at the places of `token_id`.

    Raises `EngineError` unless there are exactly as many places as features.
    """
    places = ids == token_id
    found, brought = int(places.sum()), features.numel() // features.shape[-1]
    if found != brought:
        raise EngineError(
            f"expected {brought} placeholders of id {token_id}, found {found}: the prompt was made "
            "for another grid or another number of mask tokens"
        )
    return x.masked_scatter(places[..., None].expand_as(x), features.to(x.dtype))


def _cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _check_sizes(base: Any, config: MllmConfig) -> None:
    wanted = config.picture.tile_px, config.picture.tokens_per_tile
    px = tile_px(base.config, wanted[0])
    found = px, tile_side(base.config, px) ** 2
    if found != wanted:
        raise EngineError(
            f"the base cuts tiles of {found[0]} px into {found[1]} tokens, the captioner expects "
            f"{wanted[0]} px and {wanted[1]}: wrap this base anew"
        )
