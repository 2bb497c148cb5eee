"""Builds plans with torch-tensorrt: its converters translate the traced operators of torch, without
ONNX between them. The plan is an ordinary one: the node opens it with TensorRT alone.

torch-tensorrt asks the CUDA device while it builds, and opens what it has built. Without a device
it cannot even be imported. The whole graph becomes one plan: an operator without a converter is an
error that names it, because nothing in the node could run it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ureca.bundle import TensorSpec
from ureca.errors import EngineError
from ureca.export.config import DISTRIBUTIONS
from ureca.export.graphs.interfaces import build_interfaces, count_max_positions
from ureca.export.graphs.onnx_export import (
    find_free_dimensions,
    make_example,
    make_traceable,
    silence_exporter,
)
from ureca.export.graphs.wrappers import LmWhole
from ureca.extras import require
from ureca.models.nano.network import Captioner
from ureca.models.runtime.graph_names import GATHER, LM
from ureca.models.runtime.shape_ranges import Ranges, build_profiles, compute_shapes

Shapes = Sequence[Sequence[int]]
"""Of one input: at least, typically, at most."""
_MISSING = re.compile(r"Conversion of \w+ (?:of type )?(\S+) not currently supported")


def build_torch_tensorrt_plan(
    runtime: str,
    model: Captioner,
    name: str,
    *,
    max_regions: int,
    half: bool,
    buckets: Sequence[int] = (),
) -> bytes:
    """Build the graph `name` of `model`, in float16 between float32 interfaces if `half`. With
    `buckets` it has an optimisation profile for each of these batch sizes.

    Raises `MissingExtraError` without the package of `runtime`, `EngineError` with the operators
    that have no converter, or the builder's own words.
    """
    package = _import_package(runtime)
    interface = build_interfaces(model.config)[name]
    program = _trace(model, name, interface.inputs, half=half and name != GATHER)
    profiles = build_profiles(name, model.config, max_regions=max_regions, buckets=buckets)
    outputs = tuple(interface.output_names)
    try:
        plan: bytes = package.dynamo.convert_exported_program_to_serialized_trt_engine(
            program,
            arg_inputs=tuple(_describe(package, spec, profiles) for spec in interface.inputs),
            arg_input_binding_names=tuple(interface.input_names),
            output_binding_names=outputs if len(outputs) > 1 else outputs[0],
            require_full_compilation=True,
            assume_dynamic_shape_support=True,  # or some converters refuse free dimensions
            disable_tf32=True,  # fp32 must mean float32
            use_fp32_acc=half,
            offload_module_to_cpu=True,  # the network is there already
            min_block_size=1,
        )
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise EngineError(_explain(package, name, error)) from error
    return plan


class HalfInside(nn.Module):
    """A module that computes in float16 between its float32 inputs and outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, *tensors: Tensor) -> Any:
        """One tensor, or a tuple of them, as the module gives."""
        said = self.module(*(each.half() if each.is_floating_point() else each for each in tensors))
        if isinstance(said, Tensor):
            return _to_float(said)
        return tuple(_to_float(each) for each in said)


def _to_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _import_package(runtime: str) -> Any:
    """Import torch-tensorrt. Its import asks the device, and fails in many ways without one."""
    try:
        return require("torch_tensorrt", extra=DISTRIBUTIONS[runtime])
    except (RuntimeError, AssertionError, OSError) as error:
        raise EngineError(
            f"{DISTRIBUTIONS[runtime]} cannot be used on this machine: {error}; --builder onnx "
            "needs no torch-tensorrt"
        ) from error


def _trace(
    model: Captioner, name: str, inputs: Sequence[TensorSpec], *, half: bool
) -> torch.export.ExportedProgram:
    positions = count_max_positions(model.config)
    whole = LmWhole(model, positions=positions) if name == LM else None
    module = make_traceable(model, name, whole)
    with torch.no_grad(), silence_exporter():
        return torch.export.export(
            HalfInside(module).eval() if half else module,
            tuple(make_example(spec) for spec in inputs),
            dynamic_shapes=(tuple(find_free_dimensions(spec) for spec in inputs),),
        )


def _describe(package: Any, spec: TensorSpec, profiles: Sequence[Ranges]) -> Any:
    """Describe one input with its shapes in every optimisation profile."""
    kind = getattr(torch, spec.dtype)
    if all(isinstance(size, int) for size in spec.shape):
        return package.Input(shape=spec.shape, dtype=kind)
    shapes = [compute_shapes(spec, ranges) for ranges in profiles]
    told = package.Input(dtype=kind, profiles=_name_shapes(shapes, least=1))
    # It refuses a length of 0, which P and S have and TensorRT takes: set after its check.
    told.profiles = _name_shapes(shapes, least=0)
    return told


def _name_shapes(profiles: Sequence[Shapes], *, least: int) -> list[dict[str, tuple[int, ...]]]:
    names = ("min_shape", "opt_shape", "max_shape")
    return [
        {n: tuple(max(d, least) for d in shape) for n, shape in zip(names, shapes, strict=True)}
        for shapes in profiles
    ]


def _explain(package: Any, name: str, error: Exception) -> str:
    """Say what failed. An operator without a converter is in the cause, before the whole graph."""
    said = f"torch-tensorrt {package.__version__} cannot build {name!r}"
    missing = _MISSING.search(f"{error.__cause__} {error}")
    if missing:
        return f"{said}: no converter for {missing[1]}; try --builder onnx"
    return f"{said}: {str(error)[:500]}; try --builder onnx"
