"""The mask head's three graphs: their description, and their export."""

from __future__ import annotations

import hashlib
from functools import partial

import msgspec
import onnx
from torch import nn

from ureca.bundle import GraphSpec, MaskHeadSpec
from ureca.export.graphs.cache import load_or_make_graph
from ureca.export.graphs.interfaces import Interface
from ureca.export.graphs.onnx_export import export_module
from ureca.models.nano.detector import Detector
from ureca.models.nano.masks.graphs import DrawGraph, PromptGraph, SegmentGraph
from ureca.models.nano.masks.network import MaskNetwork
from ureca.models.runtime.graph_names import MASKS, PROMPT, SEGMENT
from ureca.models.runtime.segmentation.mask_tensors import (
    MAX_BOXES,
    MAX_KERNELS,
    MAX_POINTS,
    list_mask_tensors,
)

_STRIDES = (8, 16, 32)


def describe_mask_head(model: MaskNetwork, *, checkpoint_sha256: str = "") -> MaskHeadSpec:
    """Sizes and tensors of a head's graphs; their files are not named yet."""
    config = model.config
    height, width = config.canvas_px
    cells = sum((height // stride) * (width // stride) for stride in _STRIDES)
    head = MaskHeadSpec(
        trunk=config.trunk,
        canvas_px=config.canvas_px,
        channels=config.channels,
        map_channels=config.map_channels,
        proposals=cells if isinstance(model.trunk, Detector) else 0,
        max_points=MAX_POINTS,
        max_boxes=MAX_BOXES,
        max_kernels=MAX_KERNELS,
        checkpoint_sha256=checkpoint_sha256,
        graphs={},
    )
    graphs = {
        name: GraphSpec(
            file=f"{name}.onnx", sha256="", inputs=inputs, outputs=outputs, precision="fp32"
        )
        for name, (inputs, outputs) in list_mask_tensors(head).items()
    }
    return msgspec.structs.replace(head, graphs=graphs)


def export_mask_graphs(model: MaskNetwork, *, opset: int) -> dict[str, onnx.ModelProto]:
    """The graphs in float32 by name, from the cache if they were exported before."""
    head, sha256 = describe_mask_head(model), _hash_weights(model)
    modules: dict[str, nn.Module] = {
        SEGMENT: SegmentGraph(model),
        PROMPT: PromptGraph(model),
        MASKS: DrawGraph(),
    }
    protos = {}
    for name, module in modules.items():
        interface = Interface(head.graphs[name].inputs, head.graphs[name].outputs)
        make = partial(export_module, module, interface, opset=opset)
        protos[name] = load_or_make_graph(name, make, checkpoint_sha256=sha256, opset=opset)
    return protos


def _hash_weights(model: MaskNetwork) -> str:
    """Of all weights and sizes: a checkpoint may leave its trunk out."""
    digest = hashlib.sha256(repr(model.config).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
