"""Chooses how the weights of a sketch are stored and multiplied, and writes the graph.

Every weight is read, converted and written before the next one is read, so the memory of an export
does not grow with the number of weights. They lie beside the graph, in `NAME.data`: a graph itself
may not exceed 2 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, external_data_helper, helper

from ureca.export.graphs.onnx_export import IR_VERSION, make_value_infos
from ureca.export.language_model.stitch import Sketch, Weight
from ureca.extras import require

Kind = Literal["fp32", "fp16", "int8", "int4"]
Way = Literal["float", "block8", "block4"]
"""How a product with a weight is computed: in float32, or from blocks of 8 or 4 bits."""
Choose = Callable[[str], Way]
Array = npt.NDArray[Any]
BLOCK = 32
"""Weights that share one scale in int4."""
_SMALL = 1 << 12
"""Weights with fewer values stay float32: their size does not matter."""
_ALIGN = 64
_COLUMNS = 2048
_MS = "com.microsoft"


@dataclass(frozen=True)
class _StoredWeight:
    """Tensors of a file that are made together: their types and shapes, and their values."""

    tensors: tuple[tuple[str, int, tuple[int, ...]], ...]
    read: Callable[[], tuple[Array, ...]]


class GraphWriter:
    """Writes one sketch in one precision.

    int8 and int4: products with a weight on the right read weights of 8 or 4 bits with a scale and
    a zero for `BLOCK` of them, and round activations to 8 bits in such blocks, too. One scale for
    all activations is faster and too coarse: few of them are very large. The rest is float32.
    fp16 is how weights are stored; processors compute in float32.
    """

    def __init__(
        self, sketch: Sketch, kind: Kind, *, opset: int, choose: Choose | None = None
    ) -> None:
        self._sketch, self._kind, self._opset = sketch, kind, opset
        self._choose: Choose = choose or (lambda name: choose_way(kind, name))
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[_StoredWeight] = []
        self._float: set[str] = set()

    def write(self, folder: Path, name: str) -> list[str]:
        """Write `NAME.onnx` and `NAME.data`; return the names of the files."""
        for node in self._sketch.nodes:
            self._nodes.extend(self._convert(node))
        for weight in sorted(self._float):
            self._store_float(weight)
        data = folder / f"{name}.data"
        tensors = list(_write_tensors(self._stored, data))
        interface = self._sketch.interface
        graph = helper.make_graph(
            self._nodes,
            name,
            make_value_infos(interface.inputs),
            make_value_infos(interface.outputs),
            initializer=[*self._sketch.constants, *tensors],
        )
        domains = [helper.make_opsetid("", self._opset), helper.make_opsetid(_MS, 1)]
        model = helper.make_model(
            graph, opset_imports=domains, ir_version=IR_VERSION, producer_name="ureca"
        )
        path = folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path))
        return [path.name, data.name]

    def _convert(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        weight = self._sketch.weights.get(node.input[1]) if node.op_type == "MatMul" else None
        way = "float" if weight is None else self._choose(node.input[1])
        if weight is None or way == "float" or weight.size < _SMALL:
            self._float.update(name for name in node.input if name in self._sketch.weights)
            return [node]
        return [self._multiply_blocks(node, weight, bits=4 if way == "block4" else 8)]

    def _store_float(self, name: str) -> None:
        weight = self._sketch.weights[name]
        if self._kind == "fp32" or weight.size < _SMALL:
            stored = ((name, TensorProto.FLOAT, weight.shape),)
            self._stored.append(_StoredWeight(stored, lambda: (weight.read(),)))
            return
        half = ((f"{name}.f16", TensorProto.FLOAT16, weight.shape),)
        self._stored.append(_StoredWeight(half, lambda: (weight.read().astype(np.float16),)))
        cast = helper.make_node("Cast", [half[0][0]], [name], to=TensorProto.FLOAT)
        self._nodes.insert(0, cast)

    def _multiply_blocks(
        self, node: onnx.NodeProto, weight: Weight, *, bits: int
    ) -> onnx.NodeProto:
        name, (rows, columns) = node.input[1], weight.shape
        blocks = -(-rows // BLOCK)
        tensors = (
            (f"{name}.u{bits}", TensorProto.UINT8, (columns, blocks, BLOCK * bits // 8)),
            (f"{name}.scale", TensorProto.FLOAT, (columns, blocks)),
            (f"{name}.zero", TensorProto.UINT8, (columns, -(-blocks * bits // 8))),
        )
        self._stored.append(_StoredWeight(tensors, lambda: round_blocks(weight.read(), bits=bits)))
        given: dict[str, Any] = {
            "K": rows,
            "N": columns,
            "bits": bits,
            "block_size": BLOCK,
            "accuracy_level": 4,
        }
        inputs = [node.input[0], *(tensor[0] for tensor in tensors)]
        return helper.make_node("MatMulNBits", inputs, list(node.output), domain=_MS, **given)


def choose_way(kind: Kind, name: str) -> Way:
    """Return how a product with a weight is computed. The output layer is never in 4 bits."""
    if kind == "int4":
        return "block8" if name.startswith("head.") else "block4"
    return "block8" if kind == "int8" else "float"


def round_blocks(weight: Array, *, bits: int) -> tuple[Array, Array, Array]:
    """f32 [K, N] -> values, scales and zeros as `MatMulNBits` of ONNX Runtime stores them."""
    package = require("onnxruntime.quantization.matmul_nbits_quantizer", extra="export")
    config = package.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=False, bits=bits)
    rounder = package.DefaultWeightOnlyQuantizer(config)
    parts = _list_parts(weight.shape[1])
    done = [rounder.qbits_block_quant(np.ascontiguousarray(weight[:, part])) for part in parts]
    values, scales, zeros = (np.concatenate(each) for each in zip(*done, strict=True))
    rows = len(values)  # ONNX Runtime before 1.24 gives scales and zeros in one dimension
    return values, scales.reshape(rows, -1), zeros.reshape(rows, -1)


def _list_parts(columns: int) -> list[slice]:
    """Parts of a weight that are rounded one after the other, so that little is copied."""
    return [slice(first, first + _COLUMNS) for first in range(0, columns, _COLUMNS)]


def _write_tensors(stored: list[_StoredWeight], path: Path) -> Iterator[TensorProto]:
    with path.open("wb") as file:
        for group in stored:
            yield from _write_group(group, file, path.name)


def _write_group(group: _StoredWeight, file: BinaryIO, name: str) -> list[TensorProto]:
    """Write the tensors of one weight. When this returns, none of its values are in memory."""
    written = []
    for (tensor, kind, shape), array in zip(group.tensors, group.read(), strict=True):
        assert array.shape == shape, f"{tensor}: {array.shape}, expected {shape}"
        file.write(b"\0" * (-file.tell() % _ALIGN))
        place = {"file": name, "offset": file.tell(), "length": array.nbytes}
        written.append(_make_external(tensor, kind, shape, **place))  # type: ignore[arg-type]
        file.write(np.ascontiguousarray(array).data)
    return written


def _make_external(
    name: str, kind: int, shape: tuple[int, ...], *, file: str, offset: int, length: int
) -> TensorProto:
    tensor = TensorProto(name=name, data_type=kind, dims=shape)
    tensor.raw_data = b""
    external_data_helper.set_external_data(tensor, file, offset=offset, length=length)
    tensor.ClearField("raw_data")
    return tensor
