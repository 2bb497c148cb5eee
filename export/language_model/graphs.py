"""Makes the graphs of a full-size captioner from its checkpoint in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from ureca.bundle import LanguageSpec, TensorSpec
from ureca.export.graphs.interfaces import Interface
from ureca.export.language_model.interfaces import (
    build_interfaces,
    describe_language,
    encode_grey,
    f32,
)
from ureca.export.language_model.modules import (
    FrameGraph,
    HeadGraph,
    LayerGraph,
    RegionTokensGraph,
    VisionGraph,
    list_maps,
)
from ureca.export.language_model.stand_ins import Read, Skeleton, make_skeleton
from ureca.export.language_model.stitch import Sketch, join_language, sketch_module
from ureca.export.language_model.trace import Traced, trace
from ureca.models.mllm.network.model import Mllm
from ureca.models.runtime.graph_names import LM, REGIONS, VISION


@dataclass(frozen=True)
class Sketches:
    """The graphs of a captioner whose weights are not read yet, by name."""

    spec: LanguageSpec
    interfaces: Mapping[str, Interface]
    graphs: Mapping[str, Sketch]


def sketch_captioner(model: Mllm, *, opset: int) -> Sketches:
    """Trace `vision`, `regions` and `lm` of a captioner. Adapters may be separate.

    Takes no memory for weights beside those of `model`, which are read when graphs are written.
    """
    skeleton = make_skeleton(model)
    seen = encode_grey(skeleton.model)
    spec = describe_language(model, seen)
    interfaces = build_interfaces(model, spec, seen)
    maps = [tensor.shape for tensor in list_maps(seen.maps)]
    layout = tree.tree_structure(seen.maps)
    regions = (RegionTokensGraph if maps else _RegionsWithoutMaps)(skeleton.model, layout=layout)
    wholes: dict[str, tuple[nn.Module, int]] = {
        VISION: (VisionGraph(skeleton.model), 0),
        REGIONS: (regions, len(maps)),
    }
    graphs = {LM: _sketch_language(skeleton, spec, interfaces[LM], opset=opset)}
    for name, (module, listed) in wholes.items():
        face = interfaces[name]
        traced = trace(
            module,
            face.inputs,
            face.output_names,
            skeleton=skeleton,
            opset=opset,
            listed=listed,
        )
        graphs[name] = sketch_module(face, traced)
    return Sketches(spec, interfaces, graphs)


class _RegionsWithoutMaps(RegionTokensGraph):
    """`regions` of a family whose regions read only masks and image tokens."""

    def forward(self, masks: Tensor, image_tokens: Tensor) -> Tensor:  # type: ignore[override]
        """Return region tokens [N, K, d]."""
        return self.model.regions(masks, image_tokens[0])


def _sketch_language(
    skeleton: Skeleton, spec: LanguageSpec, interface: Interface, *, opset: int
) -> Sketch:
    inputs = {tensor.name: tensor for tensor in interface.inputs}
    x, own = inputs["x"], _own(spec, "own")
    frame_inputs = (x, inputs["positions"], inputs["padding"], own)
    shared = ("cos", "sin", "mask")
    hidden = f32("hidden", "N", "Q", spec.width)
    frame = trace(FrameGraph(skeleton.model), frame_inputs, shared, skeleton=skeleton, opset=opset)
    layers = _trace_layers(skeleton, spec, opset=opset)
    logits = ("logits", "argmax", "logprob")
    head = trace(HeadGraph(skeleton.model), (hidden,), logits, skeleton=skeleton, opset=opset)
    return join_language(interface, frame=frame, layers=layers, head=head)


def _trace_layers(
    skeleton: Skeleton, spec: LanguageSpec, *, opset: int
) -> list[tuple[Traced, Mapping[str, Read]]]:
    """Trace each kind of layer once; return the trace and the weights of every layer."""
    turned = _count_turned(skeleton.model, spec)
    shared = [f32(name, "N", "Q", turned) for name in ("cos", "sin")]
    inputs = (
        f32("hidden", "N", "Q", spec.width),
        *shared,
        f32("mask", "N", 1, "Q", "S + Q"),
        *(f32(f"prefix_{part}", spec.heads, 1, "P", spec.head_dim) for part in "kv"),
        *(_own(spec, f"own_{part}") for part in "kv"),
    )
    outputs = ("hidden_out", "next_k", "next_v")
    traced: dict[str, Traced] = {}
    layers: list[tuple[Traced, Mapping[str, Read]]] = []
    for layer in skeleton.model.language.layers:
        module, kind = LayerGraph(layer), _describe(layer)
        if kind not in traced:
            traced[kind] = trace(module, inputs, outputs, skeleton=skeleton, opset=opset)
        own = dict(skeleton.list_weights(module))
        layers.append((traced[kind], {name: own[name] for name in traced[kind].reads}))
    return layers


def _describe(layer: nn.Module) -> str:
    """Return the same text for layers whose graphs differ only in the values of their weights."""
    modules = [f"{name} {type(module).__name__}" for name, module in layer.named_modules()]
    shapes = [f"{name} {tuple(p.shape)}" for name, p in layer.named_parameters()]
    return "\n".join([*modules, *shapes])


def _own(spec: LanguageSpec, name: str) -> TensorSpec:
    return f32(name, spec.heads, "N", "S", spec.head_dim)


@torch.no_grad()
def _count_turned(model: Mllm, spec: LanguageSpec) -> int:
    """Numbers of a head that positions turn: not all of them in every model."""
    at = torch.zeros(1, 1, dtype=torch.long)
    if spec.axes > 1:
        at = at.expand(spec.axes, 1, 1)
    cos, _ = model.language.rotary_emb(torch.zeros(1, 1, spec.width), at)
    return int(cos.shape[-1])
