"""Inputs and outputs of every graph: names, types and shapes, said once.

The exporter derives its dynamic shapes from this table, writes it into the ONNX files and into the
manifest. Free dimensions: T tiles, N regions, Q new positions, P prefix and S own length (both may
be 0), K region tokens, M rows that are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ureca.bundle import TensorSpec
from ureca.models.config import TRUNK_HEAD_CHANNELS, CaptionerConfig
from ureca.models.runtime.graph_names import GATHER, LM, LM_STATIC, MAPS, REGIONS, VISION, LmNames
from ureca.models.runtime.shape_ranges import max_tiles, own_slots

Dim = int | str


@dataclass(frozen=True, slots=True)
class Interface:
    """One graph's tensors in order."""

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


def interfaces(config: CaptionerConfig) -> dict[str, Interface]:
    """The graphs of a captioner; T, and with it P and K, is free only if it may exceed 1."""
    names = LmNames.of(config.language.layers)
    own, grown = _kv(config, names.own, "N", "S"), _kv(config, names.grown, "N", "S + Q")
    prefix, new = _kv(config, names.prefix, 1, "P"), _f32("x", "N", "Q", config.language.width)
    slots = own_slots(config)
    position = TensorSpec(name="position", dtype="int64", shape=(1,))
    return {
        VISION: _vision(config),
        REGIONS: _regions(config),
        LM: Interface(
            (new, *prefix, *own),
            (*_choice(config), *grown),
        ),
        LM_STATIC: Interface(
            (new, position, *prefix, *_kv(config, names.own, "N", slots)),
            (*_choice(config), *_kv(config, names.grown, "N", slots)),
        ),
        GATHER: Interface(
            (TensorSpec(name="rows", dtype="int64", shape=("M",)), *own),
            _kv(config, names.grown, "M", "S"),
        ),
    }


def max_positions(config: CaptionerConfig) -> int:
    """The longest sequence that the limits allow, rounded up: image, region, start and caption."""
    tiles = max_tiles(config)
    image = config.vision.tokens_per_tile * tiles
    return -(-(image + own_slots(config)) // 32) * 32


def _choice(config: CaptionerConfig) -> tuple[TensorSpec, ...]:
    return (
        _f32("logits", "N", config.language.vocab_size),
        TensorSpec(name="argmax", dtype="int64", shape=("N", 1)),
        _f32("logprob", "N", 1),
    )


def _vision(config: CaptionerConfig) -> Interface:
    side = config.vision.tile_px
    fixed = max_tiles(config) == 1
    prefix: Dim = config.vision.tokens_per_tile if fixed else "P"
    return Interface(
        (_f32("pixel_values", _tiles(config), 3, side, side),),
        (_f32("image_tokens", 1, prefix, config.language.width), *_maps(config)),
    )


def _regions(config: CaptionerConfig) -> Interface:
    side = config.vision.mask_px
    tokens: Dim = config.regions.tokens(1) if max_tiles(config) == 1 else "K"
    return Interface(
        (_f32("masks", "N", _tiles(config), side, side), _f32("boxes", "N", 4), *_maps(config)),
        (_f32("region_tokens", "N", tokens, config.language.width),),
    )


def _maps(config: CaptionerConfig) -> tuple[TensorSpec, ...]:
    side = config.vision.tile_px
    fused = config.regions.fused_channels
    channels = (fused, fused, TRUNK_HEAD_CHANNELS, 3)
    strides = zip(MAPS, channels, (8, 16, 32, 4), strict=True)
    return tuple(_f32(n, _tiles(config), c, side // s, side // s) for n, c, s in strides)


def _tiles(config: CaptionerConfig) -> Dim:
    return 1 if max_tiles(config) == 1 else "T"


def _kv(
    config: CaptionerConfig, names: Iterable[str], rows: Dim, length: Dim
) -> tuple[TensorSpec, ...]:
    language = config.language
    return tuple(_f32(name, language.heads, rows, length, language.head_dim) for name in names)


def _f32(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)
