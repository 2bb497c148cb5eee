"""Traces modules of stand-ins to ONNX graphs without weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx
import torch
from torch import nn

from ureca.bundle import TensorSpec
from ureca.export.graphs.cache import load_or_make_graph
from ureca.export.graphs.onnx_export import find_free_dimensions, make_example, silence_exporter
from ureca.export.language_model.stand_ins import Read, Skeleton
from ureca.extras import require

_SOURCES = (
    ("models", "nano/**/*.py"),
    ("models", "config.py"),
    ("models", "mllm/network/*.py"),
    ("export", "language_model/modules.py"),
    ("export", "language_model/stand_ins.py"),
    ("export", "language_model/trace.py"),
    ("export", "graphs/wrappers.py"),
    ("export", "graphs/onnx_export.py"),
)


@dataclass(frozen=True)
class Traced:
    """An ONNX graph whose weights are inputs, and how each of them is read, by input."""

    graph: onnx.GraphProto
    reads: dict[str, Read]


def trace(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    *,
    skeleton: Skeleton,
    opset: int,
    listed: int = 0,
) -> Traced:
    """Trace a module of the skeleton. The last `listed` inputs are one argument, a list.

    Weights are no constants to the optimiser: it would take the numbers of stand-ins for theirs.
    """
    reads = dict(skeleton.list_weights(module))
    proto = load_or_make_graph(
        type(module).__name__,
        partial(_trace, module, inputs, outputs, weights=set(reads), opset=opset, listed=listed),
        checkpoint_sha256=_identify(module, inputs),
        opset=opset,
        sources=_SOURCES,
    )
    return Traced(
        proto.graph, {v.name: reads[v.name] for v in proto.graph.input if v.name in reads}
    )


def _trace(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    *,
    weights: set[str],
    opset: int,
    listed: int,
) -> onnx.ModelProto:
    optimiser = require("onnxscript.optimizer", extra="export")
    ir = require("onnx_ir", extra="export")
    examples = _nest([make_example(spec) for spec in inputs], listed)
    free = _nest([find_free_dimensions(spec) for spec in inputs], listed)
    with torch.no_grad(), silence_exporter():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamic_shapes=free,
            input_names=[spec.name for spec in inputs],
            output_names=list(outputs),
            opset_version=opset,
            dynamo=True,
            verbose=False,
            optimize=False,
            external_data=False,
        )
    assert program is not None
    model = program.model
    for name in [name for name in model.graph.initializers if name in weights]:
        value = model.graph.initializers.pop(name)
        value.const_value = None
        model.graph.inputs.append(value)
    optimiser.optimize_ir(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    return proto


def _identify(module: nn.Module, inputs: Sequence[TensorSpec]) -> str:
    """Hash everything about a module but the values of its weights."""
    package = require("transformers", extra="mllm")
    digest = hashlib.sha256(f"{package.__version__} {module} {list(inputs)}".encode())
    for part in module.modules():
        digest.update(str(getattr(part, "config", "")).encode())
    for name, weight in module.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
    for name, buffer in module.named_buffers():
        digest.update(name.encode() + buffer.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _nest(flat: list[Any], listed: int) -> tuple[Any, ...]:
    return (*flat[: len(flat) - listed], flat[len(flat) - listed :]) if listed else tuple(flat)
