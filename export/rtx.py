"""TensorRT-RTX engines. NVIDIA's builder needs no GPU, so this is also the proof that its parser
takes our graphs: they are parsed and built with their shape ranges, and the layers are counted.

It does not prove that an engine runs, is right or is fast: that takes the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.bundle import TensorSpec
from ureca.errors import EngineError
from ureca.export.interfaces import Interface, interfaces, max_tiles, own_slots
from ureca.extras import require
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.graphs import LM

Range = tuple[int, int, int]
"""Least, likeliest and largest size of a free dimension."""
EXTRA = "rtx"


@dataclass(frozen=True, slots=True)
class Built:
    """A serialised engine and the kinds of its network's layers with their numbers."""

    plan: bytes
    layers: Mapping[str, int]

    def count(self, kind: str) -> int:
        """Layers whose kind holds `kind`."""
        return sum(number for name, number in self.layers.items() if kind in name)


def build(path: Path, name: str, config: CaptionerConfig, *, max_regions: int) -> Built:
    """Parse the ONNX graph `name` at `path` and build its engine.

    Raises `MissingExtraError` without the package and `EngineError` with the parser's or builder's
    own words.
    """
    trt = require("tensorrt_rtx", extra=EXTRA)
    said: list[str] = []
    builder = trt.Builder(_logger(trt, said))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError(f"TensorRT-RTX cannot parse {path}: {'; '.join(errors[:3])}")
    settings = builder.create_builder_config()
    for ranges in profiles(name, config, max_regions=max_regions):
        settings.add_optimization_profile(
            _profile(builder, network, interfaces(config)[name], ranges)
        )
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise EngineError(f"TensorRT-RTX cannot build {path}: {'; '.join(said[-3:])}")
    kinds = (network.get_layer(i).type for i in range(network.num_layers))
    return Built(bytes(plan), Counter(str(kind).rpartition(".")[2] for kind in kinds))


def profiles(
    name: str, config: CaptionerConfig, *, max_regions: int
) -> tuple[Mapping[str, Range], ...]:
    """Ranges of the free dimensions. `lm` has two: the prefix pass, and everything after it."""
    tiles = max_tiles(config)
    image, slots = config.vision.tokens_per_tile * tiles, own_slots(config)
    prompt = config.regions.tokens(tiles) + 1
    common: dict[str, Range] = {
        "T": (1, 1, tiles),
        "K": (1, prompt - 1, prompt - 1),
        "N": (1, min(8, max_regions), max_regions),
        "M": (1, min(8, max_regions), max_regions),
        "Q": (1, 1, prompt),
        "P": (0, image, image),
        "S": (0, min(16, slots), slots),
    }
    if name != LM:
        return (common,)
    least = config.vision.tokens_per_tile
    return ({"N": (1, 1, 1), "Q": (least, image, image), "P": (0, 0, 0), "S": (0, 0, 0)}, common)


def _profile(builder: Any, network: Any, interface: Interface, ranges: Mapping[str, Range]) -> Any:
    profile = builder.create_optimization_profile()
    specs = {spec.name: spec for spec in interface.inputs}
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        sizes = _sizes(specs[tensor.name], ranges)
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, *sizes)
        else:
            profile.set_shape(tensor.name, *sizes)
    return profile


def _sizes(spec: TensorSpec, ranges: Mapping[str, Range]) -> list[list[int]]:
    """The tensor's shape at the least, likeliest and largest sizes."""
    return [[d if isinstance(d, int) else ranges[d][k] for d in spec.shape] for k in range(3)]


def _logger(trt: Any, said: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                said.append(message)

    return Logger()
