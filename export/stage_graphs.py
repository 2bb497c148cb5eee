"""`ureca export` of checkpoints of `ureca mllm pix2cap` and `unires`: ONNX graphs with parity.

It writes float32 graphs and `parity.json`, no bundle: there is no runtime for them in the node yet.

Pix2Cap: `segment` (pixels of one size -> queries, classes, masks, global feature) and `words`
(queries and the words so far -> logits of the next word, without a cache). Both together caption as
torch does. UniRES++: `image`, `boxes`, `maps`, `masks`. Its language model is missing: that is the
exporter of language models' part.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from ureca.errors import BundleError, ConfigError
from ureca.export.graphs.onnx_export import save_graph, silence_exporter
from ureca.models.mllm.pix2cap.checkpoint import load_pix2cap
from ureca.models.mllm.pix2cap.network import Pix2Cap
from ureca.models.mllm.pix2cap.picture_input import choose_size
from ureca.models.mllm.pix2cap.segmenters import Queries
from ureca.models.mllm.unires.checkpoint import load_unires
from ureca.models.mllm.unires.network import Unires
from ureca.models.runtime.segmentation.open_checkpoints import is_query_captioner, is_text_segmenter

_OPSET = 20
_TOLERANCE = 1e-3
"""Of the largest difference, in deviations of the output."""
_PICTURE = (480, 640)
"""The picture whose input size the graph `segment` has."""
_WORDS = 8
"""Words that the parity check chooses greedily for every query."""


@dataclass(frozen=True)
class StageGraph:
    """One graph: a module, its inputs by name (examples for the tracer), names of its outputs, and
    the free dimensions of inputs, by name and index.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    free: Mapping[str, Mapping[int, str]]


def is_stage_checkpoint(folder: Path) -> bool:
    """Whether `folder` holds a checkpoint of `ureca mllm pix2cap` or `unires`."""
    return is_query_captioner(folder) or is_text_segmenter(folder)


def export_command(options: Namespace) -> int:
    """`ureca export CHECKPOINT -o OUT` for such a checkpoint."""
    if options.precision not in (None, "fp32"):
        raise ConfigError("--precision: graphs of pix2cap and unires are fp32")
    report = export_stage(options.checkpoint, options.out)
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
        return 0
    for name, found in report["graphs"].items():
        sys.stdout.write(f"{name}: largest difference {found['difference']:.1e} deviations\n")
    for text in report["missing"]:
        sys.stdout.write(f"missing: {text}\n")
    sys.stdout.write(f"graphs: {options.out} (no bundle: torch runs the checkpoint itself)\n")
    return 0


def export_stage(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Write the graphs of a checkpoint and `parity.json`. Raises `BundleError` when one of them
    differs from torch.
    """
    out.mkdir(parents=True, exist_ok=True)
    if is_query_captioner(checkpoint):
        return _export_pix2cap(load_pix2cap(checkpoint), out)
    return _export_unires(load_unires(checkpoint), out)


def _export_pix2cap(model: Pix2Cap, out: Path) -> dict[str, Any]:
    graphs = (make_segment_graph(model), make_words_graph(model))
    report = _write_all(graphs, out, missing=())
    pixels = torch.randn(
        graphs[0].inputs["pixels"].shape, generator=torch.Generator().manual_seed(1)
    )
    ours, theirs = _caption_with_graphs(out, pixels), _caption_with_torch(model, pixels)
    report["words_equal"] = float(np.mean(ours == theirs))
    if report["words_equal"] < 1:
        raise BundleError(f"the graphs choose other words than torch: {report['words_equal']:.3f}")
    (out / "parity.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _export_unires(model: Unires, out: Path) -> dict[str, Any]:
    graphs = (*make_tower_graphs(model), *make_mask_graphs(model))
    missing = ("lm: the language model behind the prefix; torch runs it",)
    report = _write_all(graphs, out, missing=missing)
    (out / "parity.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _write_all(
    graphs: tuple[StageGraph, ...], out: Path, *, missing: tuple[str, ...]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for graph in graphs:
        save_graph(trace_graph(graph), out / f"{graph.name}.onnx")
        difference = compare_graph(graph, out / f"{graph.name}.onnx")
        if not difference <= _TOLERANCE:
            raise BundleError(f"{graph.name} differs from torch by {difference:.2e} deviations")
        shapes = {name: list(tensor.shape) for name, tensor in graph.inputs.items()}
        found[graph.name] = {"difference": difference, "inputs": shapes}
    return {"graphs": found, "missing": list(missing)}


def trace_graph(graph: StageGraph) -> onnx.ModelProto:
    """Return a graph as checked float32 ONNX."""
    free = tuple(
        dict.fromkeys(graph.free.get(name, {}), torch.export.Dim.AUTO) for name in graph.inputs
    )
    with torch.no_grad(), silence_exporter():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            dynamic_shapes=free,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    assert program is not None
    onnx.checker.check_model(program.model_proto)
    return program.model_proto


def compare_graph(graph: StageGraph, path: Path) -> float:
    """Return the largest difference from torch on new random input, with other free sizes, in
    deviations of the output.
    """
    draw = torch.Generator().manual_seed(2)
    given = {
        name: _draw_like(tensor, more=tuple(graph.free.get(name, {})), draw=draw)
        for name, tensor in graph.inputs.items()
    }
    with torch.no_grad():
        answer = graph.module(*given.values())
    theirs = answer if isinstance(answer, tuple) else (answer,)
    ours = _open(path).run(None, {name: tensor.numpy() for name, tensor in given.items()})
    return max(
        float(np.abs(one - other.numpy()).max() / max(float(other.std()), 1e-6))
        for one, other in zip(ours, theirs, strict=True)
    )


def _draw_like(tensor: Tensor, *, more: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Random values of the same type, one more along the dimensions in `more`."""
    shape = [size + (index in more) for index, size in enumerate(tensor.shape)]
    if tensor.is_floating_point():
        return torch.rand(shape, generator=draw)
    return torch.randint(0, int(tensor.max()) + 1, shape, generator=draw)


def _open(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


class _Segment(nn.Module):
    def __init__(self, model: Pix2Cap) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        queries, _ = self.model.segment(pixels)
        return queries.features, queries.classes, queries.masks, queries.picture


class _Words(nn.Module):
    def __init__(self, model: Pix2Cap) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, picture: Tensor, ids: Tensor) -> Tensor:
        empty = features.new_zeros(0)
        rows = torch.arange(features.shape[0], device=features.device)
        prefix = self.model.make_prefix(Queries(features, empty, empty, picture), rows)
        x = torch.cat([prefix, self.model.embed(ids)], dim=1)
        return self.model.language(inputs_embeds=x, use_cache=False).logits[:, -1]


def make_segment_graph(model: Pix2Cap) -> StageGraph:
    """The segmenter: pixels [1, 3, h, w] -> what it says."""
    height, width = choose_size(*_PICTURE, model.config.picture)
    names = ("features", "classes", "masks", "picture")
    return StageGraph(
        "segment", _Segment(model), {"pixels": torch.zeros(1, 3, height, width)}, names, {}
    )


def make_words_graph(model: Pix2Cap) -> StageGraph:
    """The caption decoder: queries [N, c], the global feature [g], and words i64 [N, L] -> logits
    [N, V] of the next one.
    """
    queries, picture = model.family.widths(model.segmenter.config)
    most = int(model.language.config.vocab_size) - 1
    inputs = {
        "features": torch.zeros(3, queries),
        "picture": torch.zeros(picture),
        "ids": torch.full((3, 5), most),
    }
    free = {"features": {0: "N"}, "ids": {0: "N", 1: "L"}}
    return StageGraph("words", _Words(model), inputs, ("logits",), free)


def _caption_with_graphs(out: Path, pixels: Tensor) -> Any:
    """Words i64 [Q, 8] that the two graphs choose greedily, from the first word on."""
    found = _open(out / "segment.onnx").run(None, {"pixels": pixels.numpy()})
    session, (features, picture) = _open(out / "words.onnx"), (found[0], found[3])
    ids = np.zeros((len(features), 1), np.int64)
    for _ in range(_WORDS):
        given = {"features": features, "picture": picture, "ids": ids}
        ids = np.append(ids, session.run(None, given)[0].argmax(-1)[:, None], axis=1)
    return ids


@torch.no_grad()
def _caption_with_torch(model: Pix2Cap, pixels: Tensor) -> Any:
    queries, _ = model.segment(pixels)
    words, ids = _Words(model), torch.zeros(len(queries.features), 1, dtype=torch.long)
    for _ in range(_WORDS):
        logits = words(queries.features, queries.picture, ids)
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids.numpy()


class _Image(nn.Module):
    def __init__(self, model: Unires) -> None:
        super().__init__()
        self.mllm = model.mllm

    def forward(self, tiles: Tensor) -> Tensor:
        return self.mllm.family.encode(self.mllm.base, tiles).flatten(0, 1)


class _Boxes(nn.Module):
    def __init__(self, model: Unires) -> None:
        super().__init__()
        self.detail, self.flow = model.detail, model.flow

    def forward(self, detail: Tensor, objects: Tensor, parts: Tensor, image: Tensor) -> Tensor:
        return self.flow(self.detail(detail).last_hidden_state, objects, parts, image)


class _Maps(nn.Module):
    def __init__(self, model: Unires) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.decoder.encode(pixels))


class _DecodedMasks(nn.Module):
    def __init__(self, model: Unires) -> None:
        super().__init__()
        self.decoder, self.prompt = model.decoder, model.mask_prompt

    def forward(
        self,
        hidden: Tensor,
        first: Tensor,
        second: Tensor | None = None,
        last: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        maps = [one for one in (first, second, last) if one is not None]
        return self.decoder(maps, self.prompt(hidden))


def make_tower_graphs(model: Unires) -> tuple[StageGraph, ...]:
    """`image`: one tile -> image tokens; `boxes`: high-resolution input, boxes and image tokens ->
    box tokens.
    """
    picture, config = model.mllm.config.picture, model.config
    tiles = torch.zeros(1, 3, picture.tile_px, picture.tile_px)
    boxes = {
        "detail": torch.zeros(1, 3, config.flow.detail_px, config.flow.detail_px),
        "objects": torch.rand(4, 4),
        "parts": torch.rand(3, 4),
        "image": torch.zeros(picture.tokens_per_tile, model.mllm.width),
    }
    return (
        StageGraph("image", _Image(model), {"tiles": tiles}, ("tokens",), {}),
        StageGraph(
            "boxes", _Boxes(model), boxes, ("tokens",), {"objects": {0: "N"}, "parts": {0: "M"}}
        ),
    )


def make_mask_graphs(model: Unires) -> tuple[StageGraph, ...]:
    """`maps`: SAM's image encoder; `masks`: states [N, d] of `[SEG]`s and maps -> masks, scores."""
    side = model.decoder.side_px
    pixels = torch.zeros(1, 3, side, side)
    maps = model.decoder.encode(pixels)
    names = tuple(f"map_{n}" for n in range(len(maps)))
    given = {"hidden": torch.zeros(3, model.mllm.width), **dict(zip(names, maps, strict=True))}
    return (
        StageGraph("maps", _Maps(model), {"pixels": pixels}, names, {}),
        StageGraph("masks", _DecodedMasks(model), given, ("masks", "scores"), {"hidden": {0: "N"}}),
    )
