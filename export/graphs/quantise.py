"""Makes smaller graphs from the float32 graphs: float16 storage, dynamic int8 for CPUs, and float16
arithmetic for GPUs.

All keep the interface float32. Float16 storage changes no arithmetic: ONNX Runtime folds the casts
when it opens the file. Weights of a published checkpoint are float16 already.
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
"""Weights with fewer values stay float32, because their size does not matter."""
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


def store_as_f16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose large float32 weights are stored as float16 with a cast behind them."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    casts = []
    for tensor in _find_large_floats(graph):
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


def convert_to_f16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy for GPUs that computes in float16 behind a float32 interface.

    Constants beyond the range of float16 (the mask's -1e9) become its largest number; a softmax
    treats both alike. Casts stand at the inputs and outputs, so every runtime binds the same types.
    """
    f16 = require("onnxruntime.transformers.float16", extra="export")
    models = require("onnxruntime.transformers.onnx_model", extra="export")
    source = onnx.ModelProto()
    source.CopyFrom(proto)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one line for each constant that is clipped
        result: onnx.ModelProto = f16.convert_float_to_float16(source, keep_io_types=True)
    del result.graph.value_info[:]
    models.OnnxModel(result).topological_sort()  # casts were appended at the end: sort again
    onnx.checker.check_model(result)
    return result


def find_precision(proto: onnx.ModelProto) -> Precision:
    """Return the precision in which the graph computes, from its nodes and weights."""
    if count_int8_products(proto):
        return "int8"
    # A product that reads a float16 weight directly. With float16 storage a cast is in between.
    half = {t.name for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT16}
    products = (node for node in proto.graph.node if node.op_type in _PRODUCTS)
    return "fp16" if any(half & set(node.input) for node in products) else "fp32"


def quantise_int8(proto: onnx.ModelProto, scheme: Scheme) -> onnx.ModelProto:
    """Return a copy whose weight products are int8, with one scale per output channel and dynamic
    scales for activations.

    Only products with a constant right-hand side are quantised. Attention stays float32.
    """
    quantization = require("onnxruntime.quantization", extra="export")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(_copy_shared_weights(proto), str(source))
        with _silence_advice():
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


def _copy_shared_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every product has its own weight.

    The quantiser transposes the weight of a `Gemm` in place. A second product with the same weight
    (one encoder that reads two boxes) would then read it transposed.
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
def _silence_advice() -> Iterator[None]:
    """Drop the quantiser's advice to infer shapes first. Shapes are cleared on purpose."""
    root = logging.getLogger()
    keep = _AdviceFilter()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


class _AdviceFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()


def count_int8_products(proto: onnx.ModelProto) -> int:
    """Count the products that run in int8. A product that the quantiser skips silently makes the
    bundle slower.
    """
    return sum(node.op_type == "MatMulInteger" for node in proto.graph.node)


def _find_large_floats(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    # A 1x1 convolution written as a product has its weight on the left, behind a reshape.
    flat = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    products = (node for node in graph.node if node.op_type in _PRODUCTS)
    weights = {flat.get(name, name) for node in products for name in node.input[:2]}
    for tensor in graph.initializer:
        large = int(np.prod(tensor.dims)) >= _SMALL
        if tensor.data_type == TensorProto.FLOAT and large and tensor.name in weights:
            yield tensor
