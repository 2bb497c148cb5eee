"""Smaller graphs from the float32 masters: float16 storage, dynamic int8 for the CPU, and float16
arithmetic for GPUs.

All leave the interface float32. Float16 storage changes no arithmetic: ONNX Runtime folds the
casts when it opens the file, and weights of a published checkpoint are float16 already.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ureca.bundle import Precision
from ureca.extras import require

_SMALL = 256
"""Weights of fewer numbers stay float32: nothing to gain."""
Scheme = Literal["s7", "u8"]
"""Weights as signed 7-bit or unsigned 8-bit numbers; activations are unsigned 8-bit in both.

Signed 8-bit is left out on purpose: AVX2 processors without VNNI add two u8 x s8 products in 16
bits, which overflows silently (a random 64 x 32 product was off by 15 % of its largest value, 7
bits by 1 %). `s7` has a fast kernel everywhere; `u8` is finer and, without VNNI, only 5 to 15 %
slower.
"""
SCHEMES: tuple[Scheme, ...] = ("s7", "u8")

_WEIGHT_TYPES = {"s7": "QInt8", "u8": "QUInt8"}
_PRODUCTS = ("Conv", "MatMul", "Gemm")
"""Only their weights are rounded: rotary angles and quantisation scales are tables, not weights."""


def stored_as_f16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large float32 weights are float16 followed by a cast."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    casts = []
    for tensor in _large_floats(graph):
        name = tensor.name
        half = numpy_helper.from_array(
            numpy_helper.to_array(tensor).astype(np.float16), f"{name}.f16"
        )
        tensor.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(result)
    return result


def computed_in_f16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float16 behind a float32 interface, for GPUs.

    Constants beyond float16 (the mask's -1e9) become its largest number, which a softmax treats
    alike. Casts stand at the edges, so every runtime binds the same types.
    """
    f16 = require("onnxruntime.transformers.float16", extra="export")
    models = require("onnxruntime.transformers.onnx_model", extra="export")
    source = onnx.ModelProto()
    source.CopyFrom(proto)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one line for each constant that is clipped
        result: onnx.ModelProto = f16.convert_float_to_float16(source, keep_io_types=True)
    del result.graph.value_info[:]
    models.OnnxModel(result).topological_sort()  # the casts were appended at the end
    onnx.checker.check_model(result)
    return result


def precision_of(proto: onnx.ModelProto) -> Precision:
    """What the graph computes in, from its nodes and weights."""
    if int8_products(proto):
        return "int8"
    # A product that reads a float16 weight itself; mere storage has a cast in between.
    half = {t.name for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT16}
    products = (node for node in proto.graph.node if node.op_type in _PRODUCTS)
    return "fp16" if any(half & set(node.input) for node in products) else "fp32"


def quantised_int8(proto: onnx.ModelProto, scheme: Scheme) -> onnx.ModelProto:
    """A copy whose weight products are int8, one scale per output channel, activations at run time.

    Only products with a constant right-hand side are touched: attention stays float32.
    """
    quantization = require("onnxruntime.quantization", extra="export")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(_unshared(proto), str(source))
        with _unadvised():
            quantization.quantize_dynamic(
                str(source),
                str(target),
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=getattr(quantization.QuantType, _WEIGHT_TYPES[scheme]),
                reduce_range=scheme == "s7",
                # Our graphs are float32 throughout; type inference gives up behind free dimensions.
                extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
            )
        return onnx.load(str(target))


def _unshared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every product has a weight of its own.

    The quantiser turns a `Gemm`'s weight round in place, so a second product with the same weight
    (one encoder that reads two boxes) would be left with it the wrong way about.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    seen: set[str] = set()
    for node in result.graph.node:
        if node.op_type in _PRODUCTS and node.input[1] in seen:
            copy = result.graph.initializer.add()
            copy.CopyFrom(weights[node.input[1]])
            copy.name = f"{node.input[1]}.{node.name}"
            node.input[1] = copy.name
        elif node.op_type in _PRODUCTS and node.input[1] in weights:
            seen.add(node.input[1])
    return result


@contextmanager
def _unadvised() -> Iterator[None]:
    """The quantiser logs advice on every call to shape-infer first; our shapes are cleared on
    purpose.
    """
    root = logging.getLogger()
    keep = _NoAdvice()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


class _NoAdvice(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()


def int8_products(proto: onnx.ModelProto) -> int:
    """How many products run in int8: a quantiser that silently skips one is a slower bundle."""
    return sum(node.op_type == "MatMulInteger" for node in proto.graph.node)


def _large_floats(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    # A 1x1 convolution written as a product has its weight on the left, behind a reshape.
    flat = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    products = (node for node in graph.node if node.op_type in _PRODUCTS)
    weights = {flat.get(name, name) for node in products for name in node.input[:2]}
    for tensor in graph.initializer:
        large = int(np.prod(tensor.dims)) >= _SMALL
        if tensor.data_type == TensorProto.FLOAT and large and tensor.name in weights:
            yield tensor
