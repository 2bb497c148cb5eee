"""TensorRT and TensorRT-RTX engines ("plans") from the float graphs, strongly typed.

TensorRT-RTX builds without a GPU, so building is also the proof that NVIDIA's parser takes our
graphs: they are parsed and built with their shape ranges, and the layers are counted. It does not
prove that a plan runs, is right or is fast: that takes the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.errors import EngineError
from ureca.export.graphs.interfaces import Interface, interfaces
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.shape_ranges import Ranges, profiles, sizes


@dataclass(frozen=True, slots=True)
class Built:
    """A serialised engine and the kinds of its network's layers with their numbers."""

    plan: bytes
    layers: Mapping[str, int]

    def count(self, kind: str) -> int:
        """Layers whose kind holds `kind`."""
        return sum(number for name, number in self.layers.items() if kind in name)


def build(
    trt: Any,
    path: Path,
    name: str,
    config: CaptionerConfig,
    *,
    max_regions: int,
    target: str = "",
) -> Built:
    """Parse the ONNX graph `name` at `path` and build its engine with the package `trt`.

    `target` is one device (`sm_89`) for TensorRT-RTX, else the package's default. Raises
    `EngineError` with the parser's or builder's own words.
    """
    said: list[str] = []
    builder = trt.Builder(_logger(trt, said))
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError(f"{trt.__name__} cannot parse {path}: {'; '.join(errors[:3])}")
    settings = _settings(trt, builder, target)
    for ranges in profiles(name, config, max_regions=max_regions):
        settings.add_optimization_profile(
            _profile(builder, network, interfaces(config)[name], ranges)
        )
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise EngineError(f"{trt.__name__} cannot build {path}: {'; '.join(said[-3:])}")
    kinds = (network.get_layer(i).type for i in range(network.num_layers))
    return Built(bytes(plan), Counter(str(kind).rpartition(".")[2] for kind in kinds))


def _strongly_typed(trt: Any) -> int:
    """The flag that TensorRT 10 needs; from 11 on every network is strongly typed."""
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _settings(trt: Any, builder: Any, target: str) -> Any:
    settings = builder.create_builder_config()
    settings.clear_flag(trt.BuilderFlag.TF32)  # fp32 is to mean float32
    if target.startswith("sm_") and hasattr(trt, "ComputeCapability"):
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(
            getattr(trt.ComputeCapability, target.replace("_", "").upper()), 0
        )
    return settings


def _profile(builder: Any, network: Any, interface: Interface, ranges: Ranges) -> Any:
    profile = builder.create_optimization_profile()
    specs = {spec.name: spec for spec in interface.inputs}
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shapes = sizes(specs[tensor.name], ranges)
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, *shapes)
        else:
            profile.set_shape(tensor.name, *shapes)
    return profile


def _logger(trt: Any, said: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                said.append(message)

    return Logger()
