"""Adds what scores texts to a bundle that exists; its other files keep their bytes.

The checkpoint's `grounding.json` and `grounding.npz` say how scores become decisions. The graph
`score` is exported and proven, or, if the bundle has it already, only the weights are renewed.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import onnx

from ureca.bundle import (
    BundleManifest,
    GraphSpec,
    GroundingWeights,
    file_spec,
    load_manifest,
    verify_files,
    write_manifest,
)
from ureca.errors import BundleError, WeightsError
from ureca.export.config import ExportConfig
from ureca.export.graphs.cache import load_or_make_graph
from ureca.export.graphs.interfaces import build_interfaces
from ureca.export.graphs.onnx_export import export_graph, save_graph
from ureca.export.graphs.quantise import find_precision, store_as_f16
from ureca.export.parity.parity_checks import ParityProof, open_graphs, read_embedding_table
from ureca.export.parity.parity_inputs import ParityCase, prepare_arrays
from ureca.export.parity.scoring import ScoreAlone, ScoringReference
from ureca.export.parity.scoring_report import ScoringProof, failures, line
from ureca.models.nano.checkpoint import CONFIG, WEIGHTS, load_checkpoint
from ureca.models.runtime.compatibility import ONNX
from ureca.models.runtime.graph_names import GRAPHS, SCORE
from ureca.models.runtime.grounding.weights import ARRAYS, GROUNDING, checkpoint_weights
from ureca.models.runtime.load import load_backend

PARITY = "parity.json"
_PICTURES = 12


def add_grounding(
    checkpoint: Path, bundle: Path, *, config: ExportConfig, cases: Sequence[ParityCase]
) -> ScoringProof:
    """Export and prove `score`, and write the section `grounding` of the manifest.

    Nothing is written if the proof fails. Raises `WeightsError` without the checkpoint's weights
    of grounding, `BundleError` for a bundle of another checkpoint or runtime.
    """
    weights = checkpoint_weights(checkpoint)
    if weights is None:
        raise WeightsError(
            f"{checkpoint} has no {GROUNDING} and {ARRAYS}: fit them first (docs/find.md)"
        )
    manifest = _fitting(bundle, checkpoint)
    kept = _kept(checkpoint, bundle, manifest)
    if kept is not None:
        renewed = msgspec.structs.replace(manifest, grounding=_section(checkpoint, bundle))
        write_manifest(bundle, renewed)
        return kept
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        stage = Path(folder)
        proof, proto = _proven(checkpoint, bundle, manifest, config=config, cases=cases)
        if failures(proof, asdict(config.tolerances)):
            return proof
        save_graph(proto, stage / f"{SCORE}.onnx")
        shutil.copyfile(checkpoint / ARRAYS, stage / ARRAYS)
        report = json.loads((bundle / PARITY).read_text("utf-8"))
        report["scoring"] = asdict(proof)
        report["precision"][SCORE] = find_precision(proto)
        report["tolerances"]["score_agreement"] = config.tolerances.score_agreement
        (stage / PARITY).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        _publish(stage, bundle, manifest, checkpoint, precision=find_precision(proto))
    return proof


def _fitting(bundle: Path, checkpoint: Path) -> BundleManifest:
    manifest = load_manifest(bundle)
    verify_files(bundle, manifest)
    if manifest.runtime != ONNX:
        raise BundleError(
            f"{bundle} is for {manifest.runtime}, expected {ONNX}: export the checkpoint again"
        )
    got = file_spec(checkpoint, WEIGHTS).sha256
    if got != manifest.checkpoint_sha256:
        raise BundleError(
            f"{bundle} was made from a checkpoint with sha256 {manifest.checkpoint_sha256}, "
            f"{checkpoint} has {got}: export it to a bundle of its own"
        )
    return manifest


def _kept(checkpoint: Path, bundle: Path, manifest: BundleManifest) -> ScoringProof | None:
    """The proof of a graph that the bundle has already, with these null regions."""
    if SCORE not in manifest.graphs or not (bundle / ARRAYS).is_file():
        return None
    if file_spec(bundle, ARRAYS).sha256 != file_spec(checkpoint, ARRAYS).sha256:
        return None
    report = json.loads((bundle / PARITY).read_text("utf-8"))
    return msgspec.convert(report["scoring"], ScoringProof) if report.get("scoring") else None


def _proven(
    checkpoint: Path,
    bundle: Path,
    manifest: BundleManifest,
    *,
    config: ExportConfig,
    cases: Sequence[ParityCase],
) -> tuple[ScoringProof, onnx.ModelProto]:
    """The graph as it ships, beside the bundle's own graphs, and what was compared."""
    model = load_checkpoint(checkpoint)
    sha256 = " ".join(file_spec(checkpoint, name).sha256 for name in (WEIGHTS, CONFIG))
    make = partial(export_graph, model, SCORE, opset=config.opset)
    master = load_or_make_graph(SCORE, make, checkpoint_sha256=sha256, opset=config.opset)
    proof = ParityProof(
        model, [prepare_arrays(case, model.config.vision) for case in cases[:_PICTURES]]
    )
    reference, table = ScoringReference(proof), read_embedding_table(model)
    own: dict[str, Any] = {n: onnx.load(str(bundle / manifest.graphs[n].file)) for n in GRAPHS}
    quantised = any(graph.precision == "int8" for graph in manifest.graphs.values())
    least = config.tolerances.score_agreement
    chosen = master
    if quantised:
        chosen = reference.choose_int8(own, master, table, minimum=least)
    shipped = store_as_f16(chosen) if quantised else chosen
    exact = ScoreAlone(model, open_graphs({SCORE: master}, table, model.config))
    bundled = open_graphs({**own, SCORE: shipped}, table, model.config)
    return reference.prove(exact, bundled), shipped


def _publish(
    stage: Path, bundle: Path, manifest: BundleManifest, checkpoint: Path, *, precision: Any
) -> None:
    """Move the new files into the bundle, the manifest last."""
    for path in sorted(stage.iterdir()):
        shutil.move(path, bundle / path.name)
    interface = build_interfaces(load_checkpoint(checkpoint).config)[SCORE]
    file = f"{SCORE}.onnx"
    graph = GraphSpec(
        file=file,
        sha256=file_spec(bundle, file).sha256,
        inputs=interface.inputs,
        outputs=interface.outputs,
        precision=precision,
    )
    extra = tuple(file_spec(bundle, spec.file) for spec in manifest.extra_files)
    renewed = msgspec.structs.replace(
        manifest,
        graphs={**manifest.graphs, SCORE: graph},
        extra_files=extra,
        grounding=_section(checkpoint, bundle),
    )
    write_manifest(bundle, renewed)
    load_backend(bundle, renewed)


def _section(checkpoint: Path, bundle: Path) -> GroundingWeights:
    weights = checkpoint_weights(checkpoint)
    assert weights is not None
    return msgspec.structs.replace(weights, arrays=file_spec(bundle, ARRAYS))


def show_scoring(proof: ScoringProof, config: ExportConfig, *, as_json: bool) -> int:
    """Print the proof; returns the exit status, 1 when it failed."""
    bad = failures(proof, asdict(config.tolerances))
    if as_json:
        sys.stdout.write(json.dumps({**asdict(proof), "failures": bad}, indent=2) + "\n")
        return int(bool(bad))
    named = {"float32": proof.float32, "bundle": proof.bundle, "other seed": proof.control}
    trials = {name.removeprefix("score "): found for name, found in proof.int8_trials.items()}
    lines = [line(name, found) for name, found in {**named, **trials}.items()]
    sys.stdout.write("\n".join([*lines, *(f"FAILED: {reason}" for reason in bad)]) + "\n")
    return int(bool(bad))
