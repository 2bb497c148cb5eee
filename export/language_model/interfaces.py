"""Defines the inputs and outputs of the graphs of a full-size captioner.

Free dimensions as in `export.graphs.interfaces`; A is 1, or 3 for positions of three dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ureca.bundle import LanguageSpec, TensorSpec
from ureca.export.graphs.interfaces import Dim, Interface
from ureca.export.language_model.modules import list_maps
from ureca.models.mllm.network.model import Mllm, PictureFeatures
from ureca.models.runtime.graph_names import GATHER, LM, REGIONS, VISION, LmNames


@torch.no_grad()
def encode_grey(model: Mllm) -> PictureFeatures:
    """Encode one grey tile: the shapes of the tokens and maps of a picture."""
    side = model.config.picture.tile_px
    return model.encode_picture(torch.zeros(1, 3, side, side))


def describe_language(model: Mllm, seen: PictureFeatures) -> LanguageSpec:
    """Sizes of the language model, and what `vision` hands to `regions`."""
    text = model.base.config.get_text_config()
    heads = int(text.num_attention_heads)
    return LanguageSpec(
        layers=int(text.num_hidden_layers),
        heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or model.width // heads),
        width=model.width,
        axes=model.family.axes,
        layout=model.family.layout,
        image_tokens=len(seen.tokens),
        maps=tuple(f"map_{number}" for number in range(len(list_maps(seen.maps)))),
    )


def build_interfaces(
    model: Mllm, spec: LanguageSpec, seen: PictureFeatures
) -> dict[str, Interface]:
    """Return the interfaces of `vision`, `regions`, `lm` and `gather`."""
    names, side = LmNames.of(spec.layers), model.config.picture.tile_px
    tiles: Dim = 1 if model.config.picture.max_tiles == 1 else "T"
    own, grown = (_kv(spec, n, "N", s) for n, s in ((names.own, "S"), (names.grown, "S + Q")))
    maps = tuple(
        f32(name, *_free_tiles(tensor, tiles))
        for name, tensor in zip(spec.maps, list_maps(seen.maps), strict=True)
    )
    tokens: Dim = len(seen.tokens) if tiles == 1 else "P"
    image = f32("image_tokens", 1, tokens, spec.width)
    mask = model.config.mask
    counted = tiles == 1 and model.masks is not None
    count: Dim = mask.count_tokens(1) if counted else "K"
    masks = f32("masks", "N", tiles, mask.side_px, mask.side_px)
    vocabulary = int(model.base.get_output_embeddings().weight.shape[0])
    return {
        VISION: Interface((f32("pixel_values", tiles, 3, side, side),), (image, *maps)),
        REGIONS: Interface((masks, image, *maps), (f32("region_tokens", "N", count, spec.width),)),
        LM: Interface(
            (*_language_inputs(spec), *_kv(spec, names.prefix, 1, "P"), *own),
            (
                f32("logits", "N", vocabulary),
                TensorSpec(name="argmax", dtype="int64", shape=("N", 1)),
                f32("logprob", "N", 1),
                *grown,
            ),
        ),
        GATHER: Interface((i64("rows", "M"), *own), _kv(spec, names.grown, "M", "S")),
    }


def f32(name: str, *shape: Dim) -> TensorSpec:
    """Describe a tensor of float32."""
    return TensorSpec(name=name, dtype="float32", shape=shape)


def i64(name: str, *shape: Dim) -> TensorSpec:
    """Describe a tensor of int64."""
    return TensorSpec(name=name, dtype="int64", shape=shape)


def _language_inputs(spec: LanguageSpec) -> tuple[TensorSpec, ...]:
    return (
        f32("x", "N", "Q", spec.width),
        i64("positions", spec.axes, "N", "Q"),
        i64("padding", "N"),
    )


def _kv(spec: LanguageSpec, names: Iterable[str], rows: Dim, length: Dim) -> tuple[TensorSpec, ...]:
    return tuple(f32(name, spec.heads, rows, length, spec.head_dim) for name in names)


def _free_tiles(tensor: Any, tiles: Dim) -> tuple[Dim, ...]:
    """The first axis of a map is that of the tiles."""
    return (tiles, *(int(size) for size in tensor.shape[1:]))
