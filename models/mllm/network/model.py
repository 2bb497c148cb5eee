"""URECA on a base model: mask tokens after the image block, through `inputs_embeds`.

The base's own forward pass is not used. Its vision part and its language model are called one after
the other, so that all regions of an image share its prefix.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ureca.errors import EngineError
from ureca.models.mllm.config import MllmConfig
from ureca.models.mllm.network.families import (
    choose_tile_px,
    count_tile_side,
    find_family,
    get_language_model,
)
from ureca.models.mllm.network.mask_encoder import FeatureToken, MllmMaskEncoder, RegionTokens
from ureca.models.mllm.network.positions import PromptOpening, make_opening
from ureca.models.mllm.network.prefix_attention import NAME, Prefix, register_attention


class PictureFeatures(NamedTuple):
    """The features of one image."""

    tokens: Tensor
    """Image tokens [T * p, d]."""
    maps: Any
    """The maps from which the picture tower reads regions; None for a tower that does not."""


class Mllm(nn.Module):
    """A base model with a mask encoder. Rows are regions of one picture, or of one picture each."""

    def __init__(self, base: Any, config: MllmConfig) -> None:  # a `transformers` model
        super().__init__()
        self.config, self.family = config, find_family(config.family)
        _check_sizes(base, config)
        register_attention()
        language = get_language_model(base, self.family)
        language.set_attn_implementation(NAME)
        self._cache_argument = _find_cache_argument(language)
        self.base = base
        self.width = int(base.config.get_text_config().hidden_size)
        self.masks: MllmMaskEncoder | None = None
        """None where the picture tower reads the mask itself."""
        if self.family.own_tokens is None:
            self.masks = MllmMaskEncoder(config.mask, width=self.width)
        self.marks = nn.Parameter(torch.zeros(2, self.width))
        """Added to the embeddings of the two tokens around the mask block: these are new words, and
        the base's embeddings are frozen."""
        self.feature = None
        if config.mask.feature_token:
            if self.family.own_tokens is not None:
                raise EngineError("mask.feature_token: this family has no image tokens to average")
            per_tile = config.picture.tokens_per_tile
            self.feature = FeatureToken(width=self.width, tokens_per_tile=per_tile)
        self.region_tokens = self.make_region_tokens()

    def make_region_tokens(self) -> RegionTokens | None:
        """Make untrained layers for the picture tower's region features; None if it has none.

        Raises `EngineError` when the configuration expects another tower.
        """
        wanted, tower = self.config.mask.region_tokens, self.family.tower
        if not wanted:
            return None
        found = None if tower is None else tower.shape(self.base.config)
        if found is None or found[:2] != (self.config.mask.side_px, wanted):
            raise EngineError(
                f"mask.region_tokens is {wanted} and mask.side_px {self.config.mask.side_px}, the "
                f"picture tower of this base has {found or 'no region tokens'} (side, tokens, "
                "channels): wrap this base anew"
            )
        hidden = self.config.mask.region_width
        made = RegionTokens(tokens=wanted, channels=found[2], hidden=hidden, width=self.width)
        table = self.base.get_input_embeddings().weight.detach()
        made.scale_to_embeddings(float(table.float().std()))
        return made.to(table.device)

    @property
    def language(self) -> Any:
        """The decoder without its output layer."""
        return getattr(self.base.model, self.family.language)

    @property
    def mask_convolution(self) -> nn.Module | None:
        """What reads the mask inside the picture tower; None for a tower that does not."""
        own = self.family.own_tokens
        if own is None or not self.base.config.vision_config.masked:
            return None
        layer: nn.Module = self.base.model.get_submodule(own.masks)
        return layer

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the language model computes."""
        return self.base.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.marks.device

    def encode_picture(self, tiles: Tensor) -> PictureFeatures:
        """Encode tiles f32 [T, 3, S, S] of ONE image, once for all of its regions."""
        tower, own = self.family.tower, self.family.own_tokens
        tiles = tiles.to(self.device)
        if own is not None:
            maps = own.encode(self.base, tiles.to(self.dtype))
            return PictureFeatures(tiles.new_zeros(0, self.width), maps)
        if self.region_tokens is None or tower is None:
            return PictureFeatures(
                self.family.encode(self.base, tiles.to(self.dtype)).flatten(0, 1), None
            )
        tokens, maps = tower.encode(self.base, tiles)
        return PictureFeatures(self.project(tokens), maps)

    def project(self, tokens: Tensor) -> Tensor:
        """Project the tokens of a `Tower` [T, p, c] -> image tokens [T * p, d]."""
        assert self.family.tower is not None
        return self.family.tower.project(self.base, tokens).flatten(0, 1)

    def vision(self, tiles: Tensor) -> Tensor:
        """Tiles f32 [T, 3, S, S] of ONE image -> image tokens [T * p, d]."""
        return self.encode_picture(tiles).tokens

    def encode_tower_regions(self, masks: Tensor, maps: Any) -> Tensor | None:
        """Return a `Tower`'s region features [N, k, c], or a `RegionTower`'s image tokens
        [N, K, d]; None without a tower.
        """
        if self.family.own_tokens is not None:
            return self.family.own_tokens.regions(self.base, masks.to(self.device), maps)
        if self.region_tokens is None or self.family.tower is None:
            return None
        return self.family.tower.regions(self.base, masks.to(self.device), maps)

    def regions(self, masks: Tensor, image_tokens: Tensor, said: Tensor | None = None) -> Tensor:
        """masks f32 [N, T, M, M] of 0..1, the tokens of their image, and what the tower said of
        them -> [N, K, d].
        """
        masks = masks.to(self.device)
        if self.masks is None:
            if said is None:
                raise EngineError("expected the picture tower's image tokens, got None")
            return said.to(self.dtype)
        tokens = [self.masks(masks)]
        if self.feature is not None:
            tokens.append(self.feature(masks, image_tokens))
        if self.region_tokens is not None:
            if said is None:
                raise EngineError("expected the picture tower's region features, got None")
            tokens.append(self.region_tokens(said.to(self.device)))
        return torch.cat([each.to(self.dtype) for each in tokens], dim=1)

    def embed(self, ids: Tensor, *, mark_ids: tuple[int, ...] = ()) -> Tensor:
        """Token ids [...] -> [..., d]; the marks around a mask block get their trained offset."""
        x: Tensor = self.base.get_input_embeddings()(ids)
        for mark, mark_id in zip(self.marks, mark_ids, strict=False):
            x = x + (ids == mark_id)[..., None] * mark.to(x.dtype)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [..., V]."""
        return self.base.get_output_embeddings()(hidden)

    def forward(self, x: Tensor, attention_mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """A whole prompt without a cache: x [N, L, d] -> hidden [N, L, d].

        What training runs; rows are padded on the right. The mask is of 0 and 1 [N, L], or says
        which tokens each one sees, bool [N, 1, L, L]; then `positions` [N, L], or [3, N, L] where
        they have three dimensions, are needed, too.
        """
        answer = self.language(
            inputs_embeds=x, attention_mask=attention_mask, position_ids=positions, use_cache=False
        )
        return answer.last_hidden_state

    def extend(self, cache: Any, **arguments: Any) -> Any:
        """Run the decoder after `cache` (of transformers), which it extends by its keys and
        values.

        `arguments` and the answer are those of the decoder's `forward`.
        """
        return self.language(**{self._cache_argument: cache}, use_cache=True, **arguments)

    def make_opening(self, x: Tensor, image: Tensor) -> PromptOpening:
        """Return the prompt's first part x [1, P, d] with its positions; `image` bool [P]."""
        side = math.isqrt(self.config.picture.tokens_per_tile)
        return make_opening(x, image, side=side if self.family.axes == 3 else None)

    def make_prefix(self, first: PromptOpening) -> Prefix:
        """Compute the shared keys and values of the prompt's first part."""
        cache = _make_cache()
        self.extend(cache, inputs_embeds=first.x, position_ids=first.positions)
        return tuple((layer.keys[0], layer.values[0]) for layer in cache.layers)


def insert_features(x: Tensor, ids: Tensor, token_id: int, features: Tensor) -> Tensor:
    """Insert `features` in order into x [..., d] at the positions of `token_id`.

    Raises `EngineError` unless there are exactly as many positions as features.
    """
    places = ids == token_id
    found, brought = int(places.sum()), features.numel() // features.shape[-1]
    if found != brought:
        raise EngineError(
            f"expected {brought} placeholders of id {token_id}, found {found}: the prompt was made "
            "for another grid or another number of mask tokens"
        )
    return x.masked_scatter(places[..., None].expand_as(x), features.to(x.dtype))


def _make_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _find_cache_argument(language: Any) -> str:
    """Return the name of the decoder's cache argument: transformers 5.24 renamed it to `cache`."""
    known = inspect.signature(language.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def _check_sizes(base: Any, config: MllmConfig) -> None:
    wanted = config.picture.tile_px, config.picture.tokens_per_tile
    px = choose_tile_px(base.config, wanted[0])
    found = px, count_tile_side(base.config, px) ** 2
    if found != wanted:
        raise EngineError(
            f"the base cuts tiles of {found[0]} px into {found[1]} tokens, the captioner expects "
            f"{wanted[0]} px and {wanted[1]}: wrap this base anew"
        )
