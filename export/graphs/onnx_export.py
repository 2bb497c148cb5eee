"""Torch to ONNX: the float32 masters from which every other precision is made."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ureca.bundle import TensorSpec
from ureca.export.graphs.interfaces import Interface, interfaces, max_positions
from ureca.export.graphs.static import LmStatic
from ureca.export.graphs.wrappers import Lm, RegionsGraph, Vision
from ureca.models.nano.captioner import Captioner
from ureca.models.runtime.graph_names import GATHER, LM, LM_STATIC, REGIONS, VISION

_ONNX_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
_IR_VERSION = 10
"""What the torch exporter writes; the newest of the `onnx` package outruns runtimes."""
_EXAMPLE = {"T": 2, "N": 3, "Q": 4, "P": 7, "S": 5}
"""Distinct sizes above 1, so that the tracer neither merges nor specialises a free dimension."""


def export_graph(model: Captioner, name: str, *, opset: int) -> onnx.ModelProto:
    """One graph of `model` as checked float32 ONNX with the interface of `interfaces`."""
    interface = interfaces(model.config)[name]
    proto = _gather(interface, opset) if name == GATHER else _traced(model, name, interface, opset)
    _describe(proto, interface)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Write one graph as one file, whole or not at all."""
    draft = path.with_suffix(".part")
    onnx.save(proto, str(draft))
    draft.replace(path)


def example(spec: TensorSpec) -> Tensor:
    """Zeros of distinct sizes along free dimensions, for the tracer."""
    sizes = [_EXAMPLE[d] if isinstance(d, str) else d for d in spec.shape]
    return torch.zeros(sizes, dtype=getattr(torch, spec.dtype))


def free(spec: TensorSpec) -> dict[int, Any]:
    """The free dimensions by index, as `torch.export` wants them."""
    return {i: torch.export.Dim.AUTO for i, d in enumerate(spec.shape) if isinstance(d, str)}


def traceable(model: Captioner, name: str) -> nn.Module:
    """The graph `name` as a module that takes the tensors of its interface one by one."""
    return _Flat(_module(model, name), name).eval()


def _traced(model: Captioner, name: str, interface: Interface, opset: int) -> onnx.ModelProto:
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            _module(model, name).eval(),
            _nested(name, [example(spec) for spec in interface.inputs]),
            dynamic_shapes=_nested(name, [free(spec) for spec in interface.inputs]),
            input_names=interface.input_names,
            output_names=interface.output_names,
            opset_version=opset,
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    assert program is not None
    return program.model_proto


class _Flat(nn.Module):
    """A module whose lists of tensors arrive one by one."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *tensors: Tensor) -> Any:
        """The wrapped module's answer."""
        return self.module(*_nested(self.name, list(tensors)))


def _module(model: Captioner, name: str) -> nn.Module:
    if name in {LM, LM_STATIC}:
        kind = Lm if name == LM else LmStatic
        return kind(model, positions=max_positions(model.config))
    return {VISION: Vision, REGIONS: RegionsGraph}[name](model)


def _nested(name: str, flat: list[Any]) -> tuple[Any, ...]:
    """The argument structure of a wrapper's `forward`: both `lm` end in two lists of tensors."""
    if name not in {LM, LM_STATIC}:
        return tuple(flat)
    alone = 1 if name == LM else 2
    half = alone + (len(flat) - alone) // 2
    return (*flat[:alone], flat[alone:half], flat[half:])


def _gather(interface: Interface, opset: int) -> onnx.ModelProto:
    """One Gather along N per tensor; simple enough to write by hand."""
    rows, *own = interface.input_names
    nodes = [
        helper.make_node("Gather", [source, rows], [target], axis=1)
        for source, target in zip(own, interface.output_names, strict=True)
    ]
    graph = helper.make_graph(nodes, GATHER, _values(interface.inputs), _values(interface.outputs))
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR_VERSION,
        producer_name="ureca",
    )


def _describe(proto: onnx.ModelProto, interface: Interface) -> None:
    """Give the free dimensions our names, and drop inner shapes: quantisation trips over them."""
    graph = proto.graph
    names = [value.name for value in (*graph.input, *graph.output)]
    expected = [*interface.input_names, *interface.output_names]
    assert names == expected, f"the exporter wrote {names}, expected {expected}"
    del graph.value_info[:], graph.input[:], graph.output[:]
    graph.input.extend(_values(interface.inputs))
    graph.output.extend(_values(interface.outputs))
    del proto.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


def _values(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(spec.name, _ONNX_TYPES[spec.dtype], list(spec.shape))
        for spec in specs
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter deprecates its own internals and misses torchvision, which we do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
