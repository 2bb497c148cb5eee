"""Adds a mask head to a bundle that exists; its other files keep their bytes.

The graphs are exported, compared with the network in torch and published together, or nothing is.
The head does not depend on the captioner: a later `ureca export` into the folder keeps it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnxruntime
import torch

from ureca.bundle import (
    FileSpec,
    GraphSpec,
    MaskHeadSpec,
    file_spec,
    load_manifest,
    verify_file,
    verify_files,
)
from ureca.errors import BundleError
from ureca.export.bundle_writer import PARITY, add_files
from ureca.export.config import ExportConfig
from ureca.export.graphs.mask_head import describe_mask_head, export_mask_graphs
from ureca.export.graphs.onnx_export import save_graph
from ureca.export.graphs.quantise import store_as_f16
from ureca.export.parity.masks import MaskReference
from ureca.export.parity.masks_report import (
    MaskAgreement,
    MaskProof,
    Storage,
    list_disagreements,
    list_mask_failures,
)
from ureca.export.parity.parity_inputs import ParityCase
from ureca.models.nano.masks.checkpoint import WEIGHTS, load_mask_checkpoint
from ureca.models.runtime.ort import count_default_threads
from ureca.models.runtime.segmentation.ort_mask_graphs import OrtMaskGraphs

_BOUNDS = ("mask_iou", "mask_score_diff", "mask_control_iou")


@dataclass(frozen=True, slots=True)
class KeptHead:
    """The mask head that a folder has, and its proof."""

    head: MaskHeadSpec
    proof: MaskProof | None


def add_mask_head(
    checkpoint: Path,
    bundle: Path,
    *,
    config: ExportConfig,
    cases: Sequence[ParityCase],
    source: str,
    trunk_weights: str = "",
) -> MaskProof:
    """Export and prove the head of `checkpoint`, and write the section `mask_head` of the manifest.

    Nothing is written if the proof fails. `cases` are what is compared, `source` describes them;
    `trunk_weights` is the folder of a published trunk that the checkpoint leaves out. Raises
    `WeightsError` for a checkpoint that cannot be read, `BundleError` for a bundle that cannot.
    """
    verify_files(bundle, load_manifest(bundle))
    model = load_mask_checkpoint(checkpoint, trunk_weights=trunk_weights)
    head = describe_mask_head(model, checkpoint_sha256=file_spec(checkpoint, WEIGHTS).sha256)
    masters = export_mask_graphs(model, opset=config.opset)
    reference, bounds = MaskReference(model, cases), asdict(config.tolerances)
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        stage = Path(folder)
        trial = _Trial(reference, head, stage)
        float32 = trial.measure(masters)
        stored, agreement = _choose_storage(trial, masters, float32, bounds)
        proof = MaskProof(
            checkpoint_sha256=head.checkpoint_sha256,
            cases=f"{agreement.pictures} pictures, {source}",
            opset=config.opset,
            versions={p.__name__: str(p.__version__) for p in (torch, onnx, onnxruntime)},
            stored=stored,
            sizes={name: (stage / g.file).stat().st_size for name, g in head.graphs.items()},
            float32=float32,
            bundle=agreement,
            control=reference.compare_control(),
        )
        if not list_mask_failures(proof, bounds):
            held = {name: bounds[name] for name in _BOUNDS}
            _publish(stage, bundle, head, proof, held)
    return proof


def find_kept_head(out: Path) -> KeptHead | None:
    """The mask head of the bundle in `out`, None without one.

    Raises `BundleError` when a file of it is missing or altered.
    """
    try:
        manifest = load_manifest(out)
    except BundleError:
        return None  # what is there is no bundle: an export replaces it
    if not manifest.mask_head:
        return None
    for graph in manifest.mask_head.graphs.values():
        verify_file(out, graph.spec)
    proof = _read_report(out).get("mask_head")
    return KeptHead(manifest.mask_head, msgspec.convert(proof, MaskProof) if proof else None)


@dataclass(frozen=True, slots=True)
class _Trial:
    """Writes graphs as they would ship, opens them and compares."""

    reference: MaskReference
    head: MaskHeadSpec
    stage: Path

    def measure(self, protos: Mapping[str, onnx.ModelProto]) -> MaskAgreement:
        """The files stay in `stage`."""
        paths = {name: self.stage / graph.file for name, graph in self.head.graphs.items()}
        for name, proto in protos.items():
            save_graph(proto, paths[name])
        threads = count_default_threads()
        return self.reference.compare(OrtMaskGraphs(self.head, paths, threads=threads))


def _choose_storage(
    trial: _Trial,
    masters: Mapping[str, onnx.ModelProto],
    float32: MaskAgreement,
    bounds: Mapping[str, float],
) -> tuple[Storage, MaskAgreement]:
    """Leave the graphs with weights in float16 in the stage if they agree, else those in
    float32.
    """
    agreement = trial.measure({name: store_as_f16(proto) for name, proto in masters.items()})
    if not list_disagreements(agreement, bounds):
        return "float16", agreement
    for name, proto in masters.items():
        save_graph(proto, trial.stage / trial.head.graphs[name].file)
    return "float32", float32


def _publish(
    stage: Path, bundle: Path, head: MaskHeadSpec, proof: MaskProof, held: Mapping[str, float]
) -> None:
    """Move the graphs of `stage` into the bundle, with the proof and the bounds that it `held`."""
    manifest = load_manifest(bundle)
    graphs = {name: _hashed(stage, graph) for name, graph in head.graphs.items()}
    report = _read_report(bundle)
    report["tolerances"] = {**report.get("tolerances", {}), **held}
    report["mask_head"] = asdict(proof)
    (stage / PARITY).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    extra: dict[str, FileSpec] = {spec.file: spec for spec in manifest.extra_files}
    extra[PARITY] = file_spec(stage, PARITY)
    renewed = msgspec.structs.replace(
        manifest,
        mask_head=msgspec.structs.replace(head, graphs=graphs),
        tolerances={**manifest.tolerances, **held},
        extra_files=tuple(extra.values()),
    )
    add_files(stage, bundle, renewed)


def _hashed(stage: Path, graph: GraphSpec) -> GraphSpec:
    return msgspec.structs.replace(graph, sha256=file_spec(stage, graph.file).sha256)


def _read_report(bundle: Path) -> dict[str, Any]:
    path = bundle / PARITY
    if not path.is_file():
        return {}
    report = json.loads(path.read_text("utf-8"))
    return report if isinstance(report, dict) else {}
