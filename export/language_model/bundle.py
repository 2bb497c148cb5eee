"""`ureca export CHECKPOINT --runtime onnx` of a full-size captioner: a bundle of graphs.

The checkpoint's weights are in memory once: as torch's reference, then as they are stored, to be
written tensor by tensor; never as both.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from ureca.bundle import (
    MANIFEST_NAME,
    BundleManifest,
    FileSpec,
    GraphSpec,
    Limits,
    TokenIds,
    file_spec,
    write_manifest,
)
from ureca.config import to_plain
from ureca.errors import BundleError
from ureca.export.bundle_writer import CARD, EMBEDDINGS, FAILED, PARITY, write_self_test
from ureca.export.config import Tolerances
from ureca.export.graphs.onnx_export import build_gather, save_graph
from ureca.export.language_model.graphs import Sketches, sketch_captioner
from ureca.export.language_model.parity import Reference, check_graphs
from ureca.export.language_model.precision import GraphWriter, Kind
from ureca.export.parity.parity_inputs import ParityCase
from ureca.export.verify import Verification
from ureca.models.mllm.checkpoints.checkpoint import (
    TOKENIZER,
    hash_checkpoint,
    load_checkpoint,
)
from ureca.models.mllm.graphs.engine import make_graph_engine
from ureca.models.mllm.mllm_engine import make_prompt
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.prompt import CaptionPrompt, TextTokenizer
from ureca.models.runtime.compatibility import ONNX, get_runtime_version
from ureca.models.runtime.graph_names import GATHER, LM

KINDS: tuple[Kind, ...] = ("fp32", "fp16", "int8", "int4")
"""Precisions of `lm`. The first is the default."""
_ROWS = 4096
"""Rows of the embedding table that are written at once."""


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """How the graphs of a full-size captioner are made."""

    kind: Kind = "fp32"
    opset: int = 20
    max_regions: int | None = None
    """Rows that a call accepts; None: the checkpoint's."""
    tolerances: Tolerances = field(default_factory=Tolerances)


def export_graphs(
    checkpoint: Path,
    out: Path,
    *,
    cases: Sequence[ParityCase],
    source: str,
    options: GraphOptions | None = None,
) -> Verification:
    """Write the bundle and check its parity. A bundle that fails is not published.

    Raises `WeightsError` for a checkpoint that cannot be read.
    """
    options = options or GraphOptions()
    out.mkdir(parents=True, exist_ok=True)
    if (out / MANIFEST_NAME).exists():
        raise BundleError(f"{out} holds a bundle already: choose another folder, or remove it")
    reference = Reference.run(checkpoint, cases, exact=options.kind == "fp32")
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        stage = Path(place) / "bundle"
        stage.mkdir()
        manifest = write_graphs(checkpoint, stage, options)
        gc.collect()
        report = check_graphs(stage, manifest, reference, cases=cases, source=source)
        report.save(stage / PARITY)
        if report.failures():
            report.save(out / FAILED)
            return report
        write_self_test(make_graph_engine(stage, manifest), stage)
        _publish(stage, out, manifest)
    return report


def verify_graphs(
    bundle: Path,
    checkpoint: Path,
    manifest: BundleManifest,
    *,
    cases: Sequence[ParityCase],
    source: str,
) -> Verification:
    """Verify a bundle's hashes and compare it with its checkpoint. Raises `BundleError`."""
    got = hash_checkpoint(checkpoint)
    if got != manifest.checkpoint_sha256:
        raise BundleError(
            f"{checkpoint} is another checkpoint: it has sha256 {got}, the bundle was made from "
            f"{manifest.checkpoint_sha256}"
        )
    make_graph_engine(bundle, manifest)
    exact = manifest.graphs[LM].precision == "fp32"
    reference = Reference.run(checkpoint, cases, exact=exact)
    return check_graphs(bundle, manifest, reference, cases=cases, source=source)


def write_graphs(checkpoint: Path, stage: Path, options: GraphOptions) -> BundleManifest:
    """Write all files of a bundle but its report and its self-test; return the manifest."""
    model = load_checkpoint(checkpoint, precision="stored", merge=False)
    prompt = make_prompt(model, TextTokenizer.load(checkpoint / TOKENIZER))
    sketches = sketch_captioner(model, opset=options.opset)
    graphs = write_sketches(sketches, stage, kind=options.kind, opset=options.opset)
    write_table(model, prompt, stage / EMBEDDINGS, half=options.kind != "fp32")
    shutil.copyfile(checkpoint / TOKENIZER, stage / TOKENIZER)
    if (checkpoint / CARD).is_file():
        shutil.copyfile(checkpoint / CARD, stage / CARD)
    config, stop = model.config, prompt.stop_ids[0]
    mark = prompt.mark_ids[0] if prompt.mark_ids else prompt.mask_id
    return BundleManifest(
        model=to_plain(replace(config, base="", base_sha256="", lora=None, projector=False)),
        checkpoint_sha256=hash_checkpoint(checkpoint),
        graphs=graphs,
        embeddings=file_spec(stage, EMBEDDINGS),
        tokenizer=file_spec(stage, TOKENIZER),
        # Both instructions are text; what they have in common is the token they begin with.
        tokens=TokenIds(pad=stop, short=mark, long=mark, eos=stop),
        limits=Limits(
            max_regions=options.max_regions or config.max_regions,
            max_new_tokens=config.max_new_tokens,
        ),
        runtime=ONNX,
        runtime_version=get_runtime_version(ONNX),
        tolerances=asdict(options.tolerances),
        extra_files=_list_extra(stage, graphs),
        language=sketches.spec,
    )


def write_sketches(
    sketches: Sketches, stage: Path, *, kind: Kind, opset: int
) -> dict[str, GraphSpec]:
    """Write the graphs with their weights. Only `lm` is rounded: of the others, the weights are
    stored as float16 unless everything is float32.
    """
    specs = {}
    for name, sketch in sketches.graphs.items():
        other: Kind = "fp32" if kind == "fp32" else "fp16"
        mine = kind if name == LM else other
        GraphWriter(sketch, mine, opset=opset).write(stage, name)
        specs[name] = _describe(stage, name, sketches, kind if name == LM else "fp32")
    save_graph(build_gather(sketches.interfaces[GATHER], opset), stage / f"{GATHER}.onnx")
    specs[GATHER] = _describe(stage, GATHER, sketches, "fp32")
    return specs


def _describe(stage: Path, name: str, sketches: Sketches, precision: Kind) -> GraphSpec:
    file, interface = f"{name}.onnx", sketches.interfaces[name]
    return GraphSpec(
        file=file,
        sha256=file_spec(stage, file).sha256,
        inputs=interface.inputs,
        outputs=interface.outputs,
        precision=precision,
    )


@torch.no_grad()
def write_table(model: Mllm, prompt: CaptionPrompt, path: Path, *, half: bool) -> None:
    """Write the table of embeddings [V + 2, d]; the last two rows are the marks in a prompt."""
    weight = model.base.get_input_embeddings().weight
    kind, count = np.float16 if half else np.float32, len(weight)
    shape = (count + len(prompt.mark_ids), weight.shape[1])
    table = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    for first in range(0, count, _ROWS):
        rows = weight[first : first + _ROWS].float().cpu().numpy()
        table[first : first + len(rows)] = rows
    for number, mark in enumerate(prompt.mark_ids):
        table[count + number] = (weight[mark].float() + model.marks[number].float()).cpu().numpy()
    table.flush()


def _list_extra(stage: Path, graphs: Mapping[str, GraphSpec]) -> tuple[FileSpec, ...]:
    known = {graph.file for graph in graphs.values()} | {EMBEDDINGS, TOKENIZER}
    names = sorted(path.name for path in stage.iterdir() if path.name not in known)
    return tuple(file_spec(stage, name) for name in names)


def _publish(stage: Path, out: Path, manifest: BundleManifest) -> None:
    extra = _list_extra(stage, manifest.graphs)
    (out / FAILED).unlink(missing_ok=True)
    for path in stage.iterdir():
        shutil.move(path, out / path.name)
    write_manifest(out, msgspec.structs.replace(manifest, extra_files=extra))
