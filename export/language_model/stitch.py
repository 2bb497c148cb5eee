"""Joins traced parts to one graph: the layers of a decoder are traced once and written often.

A trace of a whole decoder takes minutes, and grows with its layers; that of one layer takes
seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from ureca.export.graphs.interfaces import Interface
from ureca.export.language_model.stand_ins import F32, Read
from ureca.export.language_model.trace import Traced


@dataclass(frozen=True)
class Weight:
    """A weight that is not read yet: its shape, and how to read it in float32."""

    shape: tuple[int, ...]
    read: Read

    @property
    def size(self) -> int:
        """Number of its values."""
        return int(np.prod(self.shape))

    def transpose(self) -> Weight:
        """Return the weight of a linear layer as the right side of a product."""

        def read() -> F32:
            return self.read().T

        return Weight(self.shape[::-1], read)


@dataclass
class Sketch:
    """A graph whose weights are named and not read."""

    interface: Interface
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    weights: dict[str, Weight] = field(default_factory=dict)

    def add(
        self, part: Traced, prefix: str, names: Mapping[str, str], reads: Mapping[str, Read]
    ) -> None:
        """Add a part. `names` connects its inputs and outputs, all its other names get `prefix`;
        `reads` are its weights by their names in the trace.
        """

        def named(name: str) -> str:
            return names.get(name, prefix + name) if name else ""

        for value in part.graph.input:
            if value.name in reads:
                shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
                self.weights[named(value.name)] = Weight(shape, reads[value.name])
        for constant in part.graph.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(constant)
            copy.name = named(constant.name)
            self.constants.append(copy)
        for node in part.graph.node:
            self.nodes.append(_rename(node, prefix, named))
        self._connect(part, prefix, names)

    def absorb_transposes(self) -> None:
        """Write the weights of linear layers as products need them. Drops weights that nothing
        reads.
        """
        kept = []
        for node in self.nodes:
            turned = node.op_type == "Transpose" and node.input[0] in self.weights
            if turned and list(node.attribute[0].ints) == [1, 0]:
                self.weights[node.output[0]] = self.weights[node.input[0]].transpose()
            else:
                kept.append(node)
        self.nodes = kept
        used = {name for node in kept for name in node.input}
        self.weights = {name: weight for name, weight in self.weights.items() if name in used}

    def _connect(self, part: Traced, prefix: str, names: Mapping[str, str]) -> None:
        """An output that is an input of its part needs a node of its own."""
        inputs = {value.name for value in part.graph.input}
        for value in part.graph.output:
            if value.name in inputs and value.name in names:
                node = helper.make_node("Identity", [names[value.name]], [prefix + value.name])
                self.nodes.append(node)


def _rename(node: onnx.NodeProto, prefix: str, named: object) -> onnx.NodeProto:
    assert callable(named)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + node.name
    copy.doc_string = ""
    del copy.metadata_props[:], copy.input[:], copy.output[:]
    copy.input.extend(named(name) for name in node.input)
    copy.output.extend(named(name) for name in node.output)
    return copy


def join_language(
    interface: Interface,
    *,
    frame: Traced,
    layers: list[tuple[Traced, Mapping[str, Read]]],
    head: Traced,
) -> Sketch:
    """Join the parts of `lm` (`modules.FrameGraph`, `LayerGraph`, `HeadGraph`).

    `layers` has for each layer its trace and its own weights.
    """
    sketch, count = Sketch(interface), len(layers)
    inputs, outputs = interface.input_names, interface.output_names
    keys, own, grown = inputs[3 : 3 + 2 * count], inputs[3 + 2 * count :], outputs[3:]
    names = {"x": "x", "positions": "positions", "padding": "padding", "own": own[0]}
    shared = {name: f"frame.{name}" for name in ("cos", "sin", "mask")}
    sketch.add(frame, "frame.", {**names, **shared}, frame.reads)
    hidden = "x"
    for number, (layer, reads) in enumerate(layers):
        places = {"prefix_k": keys, "own_k": own, "next_k": grown}
        kv = {name: row[number] for name, row in places.items()}
        kv |= {f"{name[:-1]}v": row[count + number] for name, row in places.items()}
        after = f"layers.{number}.hidden"
        connected = {**shared, **kv, "hidden": hidden, "hidden_out": after}
        sketch.add(layer, f"layers.{number}.", connected, reads)
        hidden = after
    chosen = {name: name for name in outputs[:3]}
    sketch.add(head, "head.", {"hidden": hidden, **chosen}, head.reads)
    sketch.absorb_transposes()
    return sketch


def sketch_module(interface: Interface, traced: Traced) -> Sketch:
    """Return a graph that is traced as a whole."""
    sketch = Sketch(interface)
    names = {name: name for name in (*interface.input_names, *interface.output_names)}
    sketch.add(traced, "", names, traced.reads)
    sketch.absorb_transposes()
    return sketch
