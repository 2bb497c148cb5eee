"""Defines the inputs and outputs of every graph: names, types and shapes.

The exporter derives its dynamic shapes from this table and writes it into the ONNX files and the
manifest. Free dimensions: T tiles, N regions, Q new positions, P prefix and S own length (both may
be 0), K region tokens, M rows that are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ureca.bundle import TensorSpec
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.graph_names import (
    GATHER,
    LM,
    LM_STATIC,
    MAPS,
    REGIONS,
    SCORE,
    VISION,
    LmNames,
)
from ureca.models.runtime.shape_ranges import count_max_tiles, count_own_slots

Dim = int | str


@dataclass(frozen=True, slots=True)
class Interface:
    """The tensors of one graph in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs in order."""
        return [spec.name for spec in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in order."""
        return [spec.name for spec in self.outputs]


def build_interfaces(config: CaptionerConfig) -> dict[str, Interface]:
    """Return the graphs of a captioner. T, P and K are free only if T may exceed 1."""
    names = LmNames.of(config.language.layers)
    own, grown = (
        _kv_tensors(config, names.own, "N", "S"),
        _kv_tensors(config, names.grown, "N", "S + Q"),
    )
    prefix, new = (
        _kv_tensors(config, names.prefix, 1, "P"),
        _f32_tensor("x", "N", "Q", config.language.width),
    )
    slots = count_own_slots(config)
    position = TensorSpec(name="position", dtype="int64", shape=(1,))
    return {
        VISION: _vision_interface(config),
        REGIONS: _regions_interface(config),
        LM: Interface(
            (new, *prefix, *own),
            (*_choice_tensors(config), *grown),
        ),
        LM_STATIC: Interface(
            (new, position, *prefix, *_kv_tensors(config, names.own, "N", slots)),
            (*_choice_tensors(config), *_kv_tensors(config, names.grown, "N", slots)),
        ),
        SCORE: Interface(
            (new, TensorSpec(name="targets", dtype="int64", shape=("N", "Q")), *prefix, *own),
            (_f32_tensor("logprob", "N", "Q"),),
        ),
        GATHER: Interface(
            (TensorSpec(name="rows", dtype="int64", shape=("M",)), *own),
            _kv_tensors(config, names.grown, "M", "S"),
        ),
    }


def count_max_positions(config: CaptionerConfig) -> int:
    """Return the longest sequence within the limits: image, region, start and caption, rounded
    up.
    """
    tiles = count_max_tiles(config)
    image = config.vision.tokens_per_tile * tiles
    return -(-(image + count_own_slots(config)) // 32) * 32


def _choice_tensors(config: CaptionerConfig) -> tuple[TensorSpec, ...]:
    return (
        _f32_tensor("logits", "N", config.language.vocab_size),
        TensorSpec(name="argmax", dtype="int64", shape=("N", 1)),
        _f32_tensor("logprob", "N", 1),
    )


def _vision_interface(config: CaptionerConfig) -> Interface:
    side = config.vision.tile_px
    fixed = count_max_tiles(config) == 1
    prefix: Dim = config.vision.tokens_per_tile if fixed else "P"
    return Interface(
        (_f32_tensor("pixel_values", _count_tiles(config), 3, side, side),),
        (_f32_tensor("image_tokens", 1, prefix, config.language.width), *_map_tensors(config)),
    )


def _regions_interface(config: CaptionerConfig) -> Interface:
    side = config.vision.mask_px
    tokens: Dim = config.regions.count_tokens(1) if count_max_tiles(config) == 1 else "K"
    return Interface(
        (
            _f32_tensor("masks", "N", _count_tiles(config), side, side),
            _f32_tensor("boxes", "N", 4),
            *_map_tensors(config),
        ),
        (_f32_tensor("region_tokens", "N", tokens, config.language.width),),
    )


def _map_tensors(config: CaptionerConfig) -> tuple[TensorSpec, ...]:
    side = config.vision.tile_px
    fused = config.regions.fused_channels
    channels = (fused, fused, config.regions.named_channels, 3)
    strides = zip(MAPS, channels, (8, 16, 32, 4), strict=True)
    return tuple(
        _f32_tensor(n, _count_tiles(config), c, side // s, side // s) for n, c, s in strides
    )


def _count_tiles(config: CaptionerConfig) -> Dim:
    return 1 if count_max_tiles(config) == 1 else "T"


def _kv_tensors(
    config: CaptionerConfig, names: Iterable[str], rows: Dim, length: Dim
) -> tuple[TensorSpec, ...]:
    language = config.language
    return tuple(
        _f32_tensor(name, language.heads, rows, length, language.head_dim) for name in names
    )


def _f32_tensor(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)
