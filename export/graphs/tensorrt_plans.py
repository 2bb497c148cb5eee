"""Builds strongly typed TensorRT and TensorRT-RTX engines ("plans") from the float graphs.

TensorRT-RTX builds without a GPU. A build therefore shows that NVIDIA's parser and builder accept
our graphs with their shape ranges; the layers are counted. It does not show that a plan runs, is
correct or is fast: that needs the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ureca.errors import EngineError
from ureca.export.graphs.interfaces import Interface, build_interfaces
from ureca.models.config import CaptionerConfig
from ureca.models.runtime.shape_ranges import Ranges, build_profiles, compute_shapes


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A serialised engine, and the number of its network's layers by kind."""

    plan: bytes
    layers: Mapping[str, int]

    def count(self, kind: str) -> int:
        """Count the layers whose kind contains `kind`."""
        return sum(number for name, number in self.layers.items() if kind in name)


def build_plan(
    trt: Any,
    path: Path,
    name: str,
    config: CaptionerConfig,
    *,
    max_regions: int,
    buckets: Sequence[int] = (),
    target: str = "",
) -> BuiltPlan:
    """Parse the ONNX graph `name` at `path` and build its engine with the package `trt`.

    With `buckets` it has an optimisation profile for each of these batch sizes.

    `target` is one device (`sm_89`) for TensorRT-RTX, else the package's default. Raises
    `EngineError` with the parser's or builder's own words.
    """
    interface = build_interfaces(config)[name]
    profiles = build_profiles(name, config, max_regions=max_regions, buckets=buckets)
    return _build(trt, path, interface, profiles, target=target)


def build_static_plan(trt: Any, path: Path, *, target: str = "") -> BuiltPlan:
    """The same for a graph without free dimensions."""
    return _build(trt, path, None, (), target=target)


def _build(
    trt: Any, path: Path, interface: Interface | None, profiles: Iterable[Ranges], *, target: str
) -> BuiltPlan:
    said: list[str] = []
    builder = trt.Builder(_make_logger(trt, said))
    network = builder.create_network(_strongly_typed_flags(trt))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError(f"{trt.__name__} cannot parse {path}: {'; '.join(errors[:3])}")
    settings = _make_builder_config(trt, builder, target)
    for ranges in profiles:
        assert interface is not None
        settings.add_optimization_profile(_make_profile(builder, network, interface, ranges))
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise EngineError(f"{trt.__name__} cannot build {path}: {'; '.join(said[-3:])}")
    kinds = (network.get_layer(i).type for i in range(network.num_layers))
    return BuiltPlan(bytes(plan), Counter(str(kind).rpartition(".")[2] for kind in kinds))


def _strongly_typed_flags(trt: Any) -> int:
    """Return the flag that TensorRT 10 needs. From 11 on every network is strongly typed."""
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _make_builder_config(trt: Any, builder: Any, target: str) -> Any:
    settings = builder.create_builder_config()
    settings.clear_flag(trt.BuilderFlag.TF32)  # fp32 must mean float32: no TF32
    if target.startswith("sm_") and hasattr(trt, "ComputeCapability"):
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(
            getattr(trt.ComputeCapability, target.replace("_", "").upper()), 0
        )
    return settings


def _make_profile(builder: Any, network: Any, interface: Interface, ranges: Ranges) -> Any:
    profile = builder.create_optimization_profile()
    specs = {spec.name: spec for spec in interface.inputs}
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shapes = compute_shapes(specs[tensor.name], ranges)
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, *shapes)
        else:
            profile.set_shape(tensor.name, *shapes)
    return profile


def _make_logger(trt: Any, said: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                said.append(message)

    return Logger()
