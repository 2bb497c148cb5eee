"""Exports torch modules to ONNX. All other precisions are made from these float32 graphs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ureca.bundle import TensorSpec
from ureca.export.graphs.interfaces import Interface, build_interfaces, count_max_positions
from ureca.export.graphs.static import LmStatic
from ureca.export.graphs.wrappers import GatherRows, Lm, RegionsGraph, ScoreGraph, Vision
from ureca.models.nano.network import Captioner
from ureca.models.runtime.graph_names import GATHER, LM, LM_STATIC, REGIONS, SCORE, VISION

_ONNX_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
IR_VERSION = 10
"""The IR version that the torch exporter writes. The newest one of the `onnx` package is too new
for runtimes.
"""
_LANGUAGE: dict[str, Callable[..., nn.Module]] = {LM: Lm, LM_STATIC: LmStatic, SCORE: ScoreGraph}
"""Graphs of the language model: their inputs end in two lists of tensors."""
_EXAMPLE = {"T": 2, "N": 3, "Q": 4, "P": 7, "S": 5, "M": 2, "S + Q": 9}
"""Distinct sizes above 1. The tracer then neither merges nor specialises a free dimension."""


def export_graph(model: Captioner, name: str, *, opset: int) -> onnx.ModelProto:
    """Return one graph of `model` as checked float32 ONNX with the interface of
    `build_interfaces`.
    """
    interface = build_interfaces(model.config)[name]
    if name == GATHER:
        return _finish(build_gather(interface, opset), interface)
    nest = partial(_nest_arguments, name)
    return export_module(_select_module(model, name), interface, opset=opset, nest=nest)


def export_module(
    module: nn.Module,
    interface: Interface,
    *,
    opset: int,
    nest: Callable[[list[Any]], tuple[Any, ...]] = tuple,
) -> onnx.ModelProto:
    """Return a module as checked float32 ONNX with the given interface. `nest` makes the arguments
    of its `forward` from one value for each input.
    """
    with torch.no_grad(), silence_exporter():
        program = torch.onnx.export(
            module.eval(),
            nest([make_example(spec) for spec in interface.inputs]),
            dynamic_shapes=nest([find_free_dimensions(spec) for spec in interface.inputs]),
            input_names=interface.input_names,
            output_names=interface.output_names,
            opset_version=opset,
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    assert program is not None
    return _finish(program.model_proto, interface)


def save_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Write one graph as one file. The file appears complete or not at all."""
    draft = path.with_suffix(".part")
    onnx.save(proto, str(draft))
    draft.replace(path)


def make_example(spec: TensorSpec) -> Tensor:
    """Return zeros with distinct sizes along free dimensions, for the tracer."""
    sizes = [_EXAMPLE[d] if isinstance(d, str) else d for d in spec.shape]
    return torch.zeros(sizes, dtype=getattr(torch, spec.dtype))


def find_free_dimensions(spec: TensorSpec) -> dict[int, Any]:
    """Return the free dimensions by index in the form of `torch.export`."""
    return {i: torch.export.Dim.AUTO for i, d in enumerate(spec.shape) if isinstance(d, str)}


def make_traceable(model: Captioner, name: str, module: nn.Module | None = None) -> nn.Module:
    """Return the graph `name` as a module that takes the tensors of its interface one by one.

    `module` stands for the ordinary one of that graph.
    """
    return _FlatArguments(module or _select_module(model, name), name).eval()


def _finish(proto: onnx.ModelProto, interface: Interface) -> onnx.ModelProto:
    _set_interface(proto, interface)
    onnx.checker.check_model(proto, full_check=True)
    return proto


class _FlatArguments(nn.Module):
    """Wraps a module whose lists of tensors are passed one by one."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *tensors: Tensor) -> Any:
        """Return the result of the wrapped module."""
        return self.module(*_nest_arguments(self.name, list(tensors)))


def _select_module(model: Captioner, name: str) -> nn.Module:
    if name in _LANGUAGE:
        return _LANGUAGE[name](model, positions=count_max_positions(model.config))
    if name == GATHER:
        return GatherRows()
    return {VISION: Vision, REGIONS: RegionsGraph}[name](model)


def _nest_arguments(name: str, flat: list[Any]) -> tuple[Any, ...]:
    """Build the arguments of a wrapper's `forward`."""
    if name not in _LANGUAGE:
        return tuple(flat)
    alone = 1 if name == LM else 2
    half = alone + (len(flat) - alone) // 2
    return (*flat[:alone], flat[alone:half], flat[half:])


def build_gather(interface: Interface, opset: int) -> onnx.ModelProto:
    """Build one Gather along N per tensor."""
    rows, *own = interface.input_names
    nodes = [
        helper.make_node("Gather", [source, rows], [target], axis=1)
        for source, target in zip(own, interface.output_names, strict=True)
    ]
    graph = helper.make_graph(
        nodes, GATHER, make_value_infos(interface.inputs), make_value_infos(interface.outputs)
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION,
        producer_name="ureca",
    )


def _set_interface(proto: onnx.ModelProto, interface: Interface) -> None:
    """Name the free dimensions and drop inner shapes, which the quantiser does not accept."""
    graph = proto.graph
    names = [value.name for value in (*graph.input, *graph.output)]
    expected = [*interface.input_names, *interface.output_names]
    assert names == expected, f"the exporter wrote {names}, expected {expected}"
    del graph.value_info[:], graph.input[:], graph.output[:]
    graph.input.extend(make_value_infos(interface.inputs))
    graph.output.extend(make_value_infos(interface.outputs))
    del proto.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


def make_value_infos(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
    """Describe tensors as inputs or outputs of a graph."""
    return [
        helper.make_tensor_value_info(spec.name, _ONNX_TYPES[spec.dtype], list(spec.shape))
        for spec in specs
    ]


@contextmanager
def silence_exporter() -> Iterator[None]:
    """Silence the exporter's warnings about its own deprecations and about torchvision, which is
    not used.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
