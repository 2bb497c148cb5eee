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
from torch import nn

from ureca.bundle import TensorSpec
from ureca.export.interfaces import Interface, interfaces, max_positions
from ureca.export.static import LmStatic
from ureca.export.wrappers import Lm, Regions, Vision
from ureca.models.nano.captioner import Captioner
from ureca.models.runtime.graphs import GATHER, LM, LM_STATIC, REGIONS, VISION

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


def _traced(model: Captioner, name: str, interface: Interface, opset: int) -> onnx.ModelProto:
    module = _module(model, name).eval()
    shapes = [
        {i: torch.export.Dim.AUTO for i, d in enumerate(s.shape) if isinstance(d, str)}
        for s in interface.inputs
    ]
    examples = [
        torch.zeros(
            [_EXAMPLE[d] if isinstance(d, str) else d for d in s.shape],
            dtype=getattr(torch, s.dtype),
        )
        for s in interface.inputs
    ]
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            _nested(name, examples),
            dynamic_shapes=_nested(name, shapes),
            input_names=interface.input_names,
            output_names=interface.output_names,
            opset_version=opset,
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    assert program is not None
    return program.model_proto


def _module(model: Captioner, name: str) -> nn.Module:
    if name in {LM, LM_STATIC}:
        kind = Lm if name == LM else LmStatic
        return kind(model, positions=max_positions(model.config))
    return {VISION: Vision, REGIONS: Regions}[name](model)


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
def _quiet() -> Iterator[None]:
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
