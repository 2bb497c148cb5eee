"""`ureca export`: converts a checkpoint to a bundle and checks that its captions stay the same."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import onnx
import onnxruntime
import torch
from tqdm import tqdm

from ureca.bundle import BundleManifest, file_spec
from ureca.config import load_config
from ureca.errors import ConfigError
from ureca.export.attributes import add_attributes
from ureca.export.bundle_writer import BundleFiles, check_checkpoint
from ureca.export.config import TORCH_TENSORRT, ExportConfig
from ureca.export.graphs.cache import load_or_make_graph
from ureca.export.graphs.onnx_export import export_graph
from ureca.export.graphs.quantise import convert_to_f16, store_as_f16
from ureca.export.graphs.static import OPSET as STATIC_OPSET
from ureca.export.grounding import add_grounding, show_scoring
from ureca.export.mask_head import find_kept_head
from ureca.export.masks_cli import main as export_masks
from ureca.export.parity.comparison import measure_edge_diff
from ureca.export.parity.parity_checks import (
    ParityProof,
    Protos,
    choose_int8,
    open_graphs,
    read_embedding_table,
)
from ureca.export.parity.parity_inputs import ParityCase, find_cases, prepare_arrays
from ureca.export.parity.scoring import ScoringReference
from ureca.export.report import ParityReport, Trial, print_report
from ureca.export.runtime_selection import (
    EXPERIMENTAL,
    PRECISIONS,
    Machine,
    resolve_config,
    why_not_runnable,
)
from ureca.extras import require
from ureca.models.nano.checkpoint import CONFIG, WEIGHTS, load_checkpoint
from ureca.models.nano.network import Captioner
from ureca.models.runtime.compatibility import MLLM_CONFIG
from ureca.models.runtime.graph_backend import GraphBackend
from ureca.models.runtime.graph_names import GATHER, GRAPHS, LM_STATIC, SCORE
from ureca.models.runtime.grounding.weights import checkpoint_weights
from ureca.models.runtime.load import load_backend, make_engine
from ureca.models.runtime.segmentation.open_checkpoints import (
    is_query_captioner,
    is_text_segmenter,
)

Say = Callable[[str], None]

_EPILOG = """examples:
  ureca export runs/nano -o bundle
  ureca export runs/nano -o exact --precision fp32
  ureca export runs/nano -o fast --runtime auto
  ureca export runs/nano -o fast --runtime tensorrt-rtx --builder torch-tensorrt
  ureca export runs/nano -o bundle --only-grounding
  ureca export runs/nano -o bundle --only-attributes
  ureca export runs/ureca-smol -o bundle --runtime onnx        a full-size captioner, without torch
  ureca export runs/nano -o bundle --regions regions.jsonl.gz --images images
  ureca export masks runs/masks/checkpoint --bundle bundle     adds a mask head; its own --help

exit status: 0 the bundle was written; 1 it failed the parity check: OUT/parity.failed.json
says why, and the files that were in OUT are unchanged; 2 an input was refused"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    if argv and argv[0] == "masks":
        return export_masks(argv[1:])
    options = _build_parser().parse_args(argv)
    if options.only_attributes:
        section = add_attributes(options.checkpoint, options.out)
        sys.stdout.write(f"{options.out}: attributes {', '.join(section.heads)}\n")
        return 0
    if (options.checkpoint / MLLM_CONFIG).is_file():
        return int(require("ureca.export.mllm", extra="mllm").export_command(options))
    if is_query_captioner(options.checkpoint) or is_text_segmenter(options.checkpoint):
        return int(require("ureca.export.stage_graphs", extra="mllm").export_command(options))
    names = (
        "runtime", "precision", "target", "opset", "max_regions", "buckets", "static_cache",
        "builder",
    )  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    overrides = [f"{name}={value}" for name, value in given.items() if value is not None]
    machine = Machine.inspect()
    config, said = resolve_config(load_config(ExportConfig, options.config, overrides), machine)
    (sys.stderr if options.json else sys.stdout).write(said + "\n")
    cases, source = find_cases(options.regions, options.images, limit=config.parity_regions)
    if options.only_grounding:
        proof = add_grounding(options.checkpoint, options.out, config=config, cases=cases)
        return show_scoring(proof, config, as_json=options.json)
    try:
        report = export_bundle(
            options.checkpoint, options.out, config=config, cases=cases, source=source
        )
    except OSError as error:
        raise ConfigError(
            f"the bundle could not be written to {options.out}: {error}; without its manifest.json "
            "nothing there counts as a bundle. Free some space or choose another folder, and repeat"
        ) from error
    return print_report(report, as_json=options.json)


def export_bundle(
    checkpoint: Path, out: Path, *, config: ExportConfig, cases: Sequence[ParityCase], source: str
) -> ParityReport:
    """Export `checkpoint` to the folder `out`. A bundle that fails the parity check gets no
    manifest. A mask head that `out` has is kept.

    `cases` are what the graphs are compared on, `source` describes them in the report. Raises
    `WeightsError` for a checkpoint that cannot be read.
    """
    machine = Machine.inspect()
    config, _ = resolve_config(config, machine)
    model = load_checkpoint(checkpoint)
    check_checkpoint(checkpoint, model.config)
    kept = find_kept_head(out)
    out.mkdir(parents=True, exist_ok=True)
    with (
        _open_progress(len(GRAPHS) + 4) as say,
        tempfile.TemporaryDirectory(dir=out.parent) as stage,
    ):
        masters = _export_masters(model, checkpoint, config, say)
        say("the checkpoint's captions")
        proof = ParityProof(model, [prepare_arrays(case, model.config.vision) for case in cases])
        scoring = ScoringReference(proof) if SCORE in masters else None
        say("precision per graph")
        graphs, trials = _choose_graphs(proof, masters, config, scoring)
        say(f"files for {config.runtime}")
        files = BundleFiles(Path(stage), graphs, checkpoint=checkpoint, config=config)
        manifest = files.write(model)
        say("parity")
        absent = why_not_runnable(config, machine)
        if absent:  # run on the CPU: checks the graphs, not the GPU
            bundle = open_graphs(graphs, read_embedding_table(model), model.config)
        else:
            bundle = load_backend(Path(stage), manifest)
        report = _build_report(
            proof,
            masters,
            bundle,
            manifest=manifest,
            trials=trials,
            config=config,
            source=source,
            absent=absent,
            scoring=scoring,
        )
        files.add_self_test(make_engine(bundle, Path(stage), manifest))
        head = kept.head if kept else msgspec.UNSET
        report = replace(report, mask_head=kept.proof if kept else None)
        files.publish(msgspec.structs.replace(manifest, mask_head=head), report, out)
    return report


def _export_masters(
    model: Captioner, checkpoint: Path, config: ExportConfig, say: Say
) -> dict[str, onnx.ModelProto]:
    """Return the float graphs, from the cache if they were exported before."""
    sha256 = " ".join(file_spec(checkpoint, name).sha256 for name in (WEIGHTS, CONFIG))
    masters = {}
    scoring = (SCORE,) if checkpoint_weights(checkpoint) else ()
    static = (LM_STATIC,) if config.static_cache else ()
    for name in (*GRAPHS, *scoring, *static):
        say(f"graph {name}")
        opset = max(config.opset, STATIC_OPSET) if name == LM_STATIC else config.opset
        make = partial(export_graph, model, name, opset=opset)
        masters[name] = load_or_make_graph(name, make, checkpoint_sha256=sha256, opset=opset)
    return masters


def _choose_graphs(
    proof: ParityProof, masters: Protos, config: ExportConfig, scoring: ScoringReference | None
) -> tuple[Protos, dict[str, Trial]]:
    """Return the graphs to ship: float32 unchanged, float16, or int8 with float16 storage if it
    passes the parity check.
    """
    if config.precision == "fp32":
        return masters, {}
    if config.precision == "fp16":
        as_is = (
            GATHER,
            LM_STATIC,
        )  # float16 storage only; a cache that is updated in place allows no cast
        halves = {n: p if n in as_is else convert_to_f16(p) for n, p in masters.items()}
        return halves, {}
    table, bounds = read_embedding_table(proof.model), config.tolerances
    captioning = {name: proto for name, proto in masters.items() if name != SCORE}
    graphs, trials = choose_int8(proof, captioning, table, minimum=bounds.int8_agreement)
    if scoring is not None:
        least = bounds.score_agreement
        graphs[SCORE] = scoring.choose_int8(graphs, masters[SCORE], table, minimum=least)
    return {name: store_as_f16(proto) for name, proto in graphs.items()}, trials


def _build_report(
    proof: ParityProof,
    masters: Protos,
    bundle: GraphBackend,
    *,
    manifest: BundleManifest,
    trials: dict[str, Trial],
    config: ExportConfig,
    source: str,
    absent: str,
    scoring: ScoringReference | None,
) -> ParityReport:
    exact = open_graphs(masters, read_embedding_table(proof.model), proof.model.config)
    regions, equal = proof.count_uncached_equal(exact)
    float32 = proof.compare(exact)
    return ParityReport(
        checkpoint_sha256=manifest.checkpoint_sha256,
        opset=config.opset,
        versions={p.__name__: str(p.__version__) for p in (torch, onnx, onnxruntime)},
        cases=f"{float32.regions} regions of {len(proof.arrays)} pictures, {source}",
        tolerances=config.tolerances,
        float32=float32,
        edges_max_abs_logit_diff=measure_edge_diff(proof.torch, exact, proof.arrays[0]),
        uncached_regions=regions,
        uncached_equal=equal,
        control=proof.compare_control(),
        bundle=proof.compare(bundle),
        alone_exact=proof.measure_alone_exact(bundle),
        precision={name: graph.precision for name, graph in manifest.graphs.items()},
        int8_trials=trials,
        runtime=f"{manifest.runtime} {manifest.runtime_version} on {manifest.target}",
        not_proven={f"execution and speed on {manifest.target}": absent} if absent else {},
        scoring=scoring.prove(exact, bundle) if scoring else None,
    )


@contextmanager
def _open_progress(total: int) -> Iterator[Say]:
    """Open a progress bar and return it with the function that names the next step."""
    with tqdm(total=total, file=sys.stderr, leave=False) as bar:

        def say(text: str) -> None:
            bar.set_description(text)
            bar.update()

        yield say


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca export",
        description="Turn a checkpoint into a bundle that the node runs, and check its parity.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="folder with model.safetensors")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the bundle")
    parser.add_argument(
        "--runtime",
        choices=("auto", *PRECISIONS),
        help="default: onnx (full-size captioners: torch runs the bundle unless onnx is named); "
        f"{', '.join(EXPERIMENTAL)} are experimental: they never ran on a "
        "device (docs/export.md)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8", "int4"),
        help="default: int8 for onnx, fp32 for aoti, fp16 elsewhere; bf16: ureca-mllm only",
    )
    parser.add_argument(
        "--target",
        help="ort-gpu: cuda, tensorrt or cpu; tensorrt-rtx: sm_80+ or one device (sm_75)",
    )
    parser.add_argument(
        "--builder",
        choices=("onnx", TORCH_TENSORRT),
        help="of plans: onnx, NVIDIA's parser (default), or torch-tensorrt on a CUDA device",
    )
    parser.add_argument("--opset", type=int, help="ONNX opset (default: 20)")
    parser.add_argument(
        "--max-regions", type=_parse_count, metavar="N", help="regions per call, at most (32)"
    )
    parser.add_argument(
        "--buckets",
        type=_parse_counts,
        metavar="N,N",
        help="batch sizes a GPU prepares for (1,2,4,8,16,32)",
    )
    parser.add_argument(
        "--static-cache",
        action="store_true",
        default=None,
        help="also export lm_static (docs/export.md)",
    )
    parser.add_argument(
        "--only-grounding",
        action="store_true",
        help="OUT is a bundle of this checkpoint: add or renew only what scores texts",
    )
    parser.add_argument(
        "--only-attributes",
        action="store_true",
        help="OUT is a bundle of this checkpoint: add or renew only what answers attributes",
    )
    _add_inputs(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="configs/export/*.yaml")
    parser.add_argument("--regions", type=Path, help="regions-*.jsonl[.gz] for the parity check")
    parser.add_argument(
        "--images", type=Path, help="the images of these regions: a folder, or a tar"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")


def _parse_count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def _parse_counts(text: str) -> list[int]:
    return [_parse_count(part) for part in text.split(",")]
