"""`ureca export`: a checkpoint becomes a bundle, with the proof that it still says the same."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import onnx
import onnxruntime
import torch
from tqdm import tqdm

from ureca.bundle import BundleManifest, file_spec
from ureca.config import load_config
from ureca.errors import ConfigError
from ureca.export.bundle_writer import Files, check_checkpoint
from ureca.export.config import ExportConfig
from ureca.export.graphs.cache import cached_graph
from ureca.export.graphs.onnx_export import export_graph
from ureca.export.graphs.quantise import computed_in_f16, stored_as_f16
from ureca.export.graphs.static import OPSET as STATIC_OPSET
from ureca.export.parity.comparison import edge_diff
from ureca.export.parity.parity_checks import (
    Proof,
    Protos,
    choose_int8,
    embedding_table,
    open_graphs,
)
from ureca.export.parity.parity_inputs import ParityCase, find_cases, prepared
from ureca.export.report import ParityReport, Trial, show
from ureca.export.runtime_selection import (
    EXPERIMENTAL,
    PRECISIONS,
    Machine,
    resolve_config,
    why_not_runnable,
)
from ureca.extras import require
from ureca.models.nano.captioner import Captioner
from ureca.models.nano.checkpoint import CONFIG, WEIGHTS, load_checkpoint
from ureca.models.runtime.compatibility import MLLM_CONFIG
from ureca.models.runtime.graph_backend import GraphBackend
from ureca.models.runtime.graph_names import GATHER, GRAPHS, LM_STATIC
from ureca.models.runtime.load import engine_over, load_backend

Say = Callable[[str], None]

_EPILOG = """examples:
  ureca export runs/nano -o bundle
  ureca export runs/nano -o exact --precision fp32
  ureca export runs/nano -o fast --runtime auto
  ureca export runs/nano -o bundle --regions regions.jsonl.gz --images images

exit status: 0 the bundle was written; 1 it failed its parity proof: OUT/parity.failed.json says
why, and whatever was in OUT before is untouched; 2 an input was refused"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _parser().parse_args(argv)
    if (options.checkpoint / MLLM_CONFIG).is_file():
        return int(require("ureca.export.mllm", extra="mllm").export_command(options))
    names = ("runtime", "precision", "target", "opset", "max_regions", "buckets", "static_cache")
    given = {name: getattr(options, name) for name in names}
    overrides = [f"{name}={value}" for name, value in given.items() if value is not None]
    machine = Machine.look()
    config, said = resolve_config(load_config(ExportConfig, options.config, overrides), machine)
    (sys.stderr if options.json else sys.stdout).write(said + "\n")
    cases, source = find_cases(options.regions, options.images, limit=config.parity_regions)
    try:
        report = export_bundle(
            options.checkpoint, options.out, config=config, cases=cases, source=source
        )
    except OSError as error:
        raise ConfigError(
            f"the bundle could not be written to {options.out}: {error}; without its manifest.json "
            "nothing there counts as a bundle. Free some space or choose another folder, and repeat"
        ) from error
    return show(report, as_json=options.json)


def export_bundle(
    checkpoint: Path, out: Path, *, config: ExportConfig, cases: Sequence[ParityCase], source: str
) -> ParityReport:
    """Export `checkpoint` to the folder `out`; a bundle that fails its proof gets no manifest.

    `cases` are what the graphs are compared on, `source` describes them in the report. Raises
    `WeightsError` for a checkpoint that cannot be read.
    """
    machine = Machine.look()
    config, _ = resolve_config(config, machine)
    model = load_checkpoint(checkpoint)
    check_checkpoint(checkpoint, model.config)
    out.mkdir(parents=True, exist_ok=True)
    with (
        _progress(len(GRAPHS) + 4) as say,
        tempfile.TemporaryDirectory(dir=out.parent) as stage,
    ):
        masters = _masters(model, checkpoint, config, say)
        say("the checkpoint's captions")
        proof = Proof(model, [prepared(case, model.config.vision) for case in cases])
        say("precision per graph")
        graphs, trials = _graphs(proof, masters, config)
        say(f"files for {config.runtime}")
        files = Files(Path(stage), graphs, checkpoint=checkpoint, config=config)
        manifest = files.write(model)
        say("parity")
        absent = why_not_runnable(config, machine)
        if absent:  # the same graphs on the CPU say whether they are right, not whether a GPU is
            bundle = open_graphs(graphs, embedding_table(model), model.config)
        else:
            bundle = load_backend(Path(stage), manifest)
        report = _report(
            proof,
            masters,
            bundle,
            manifest=manifest,
            trials=trials,
            config=config,
            source=source,
            absent=absent,
        )
        files.remember(engine_over(bundle, Path(stage), manifest))
        files.publish(manifest, report, out)
    return report


def _masters(
    model: Captioner, checkpoint: Path, config: ExportConfig, say: Say
) -> dict[str, onnx.ModelProto]:
    """The float graphs, from the cache where they were exported before."""
    sha256 = " ".join(file_spec(checkpoint, name).sha256 for name in (WEIGHTS, CONFIG))
    masters = {}
    for name in (*GRAPHS, LM_STATIC) if config.static_cache else GRAPHS:
        say(f"graph {name}")
        opset = max(config.opset, STATIC_OPSET) if name == LM_STATIC else config.opset
        make = partial(export_graph, model, name, opset=opset)
        masters[name] = cached_graph(name, make, checkpoint_sha256=sha256, opset=opset)
    return masters


def _graphs(proof: Proof, masters: Protos, config: ExportConfig) -> tuple[Protos, dict[str, Trial]]:
    """The graphs that ship: float32 as they are, float16, or int8 where it holds with float16
    storage.
    """
    if config.precision == "fp32":
        return masters, {}
    if config.precision == "fp16":
        as_is = (GATHER, LM_STATIC)  # nothing is computed; a cache in place stands no cast
        halves = {n: p if n in as_is else computed_in_f16(p) for n, p in masters.items()}
        return halves, {}
    graphs, trials = choose_int8(
        proof, masters, embedding_table(proof.model), minimum=config.tolerances.int8_agreement
    )
    return {name: stored_as_f16(proto) for name, proto in graphs.items()}, trials


def _report(
    proof: Proof,
    masters: Protos,
    bundle: GraphBackend,
    *,
    manifest: BundleManifest,
    trials: dict[str, Trial],
    config: ExportConfig,
    source: str,
    absent: str,
) -> ParityReport:
    exact = open_graphs(masters, embedding_table(proof.model), proof.model.config)
    regions, equal = proof.uncached_equal(exact)
    float32 = proof.compare(exact)
    return ParityReport(
        checkpoint_sha256=manifest.checkpoint_sha256,
        opset=config.opset,
        versions={p.__name__: str(p.__version__) for p in (torch, onnx, onnxruntime)},
        cases=f"{float32.regions} regions of {len(proof.arrays)} pictures, {source}",
        tolerances=config.tolerances,
        float32=float32,
        edges_max_abs_logit_diff=edge_diff(proof.torch, exact, proof.arrays[0]),
        uncached_regions=regions,
        uncached_equal=equal,
        control=proof.control(),
        bundle=proof.compare(bundle),
        alone_exact=proof.alone_exact(bundle),
        precision={name: graph.precision for name, graph in manifest.graphs.items()},
        int8_trials=trials,
        runtime=f"{manifest.runtime} {manifest.runtime_version} on {manifest.target}",
        not_proven={f"execution and speed on {manifest.target}": absent} if absent else {},
    )


@contextmanager
def _progress(total: int) -> Iterator[Say]:
    """A bar on the terminal, and the function that names the next step."""
    with tqdm(total=total, file=sys.stderr, leave=False) as bar:

        def say(text: str) -> None:
            bar.set_description(text)
            bar.update()

        yield say


def _parser() -> argparse.ArgumentParser:
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
        help=f"default: onnx; {', '.join(EXPERIMENTAL)} are experimental: they never ran on a "
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
    parser.add_argument("--opset", type=int, help="ONNX opset (default: 20)")
    parser.add_argument(
        "--max-regions", type=_count, metavar="N", help="regions per call, at most (32)"
    )
    parser.add_argument(
        "--buckets",
        type=_counts,
        metavar="N,N",
        help="batch sizes a GPU prepares for (1,2,4,8,16,32)",
    )
    parser.add_argument(
        "--static-cache",
        action="store_true",
        default=None,
        help="also export lm_static (docs/export.md)",
    )
    parser.add_argument("--config", type=Path, help="configs/export/*.yaml")
    parser.add_argument("--regions", type=Path, help="regions-*.jsonl[.gz] for the parity check")
    parser.add_argument(
        "--images", type=Path, help="the images of these regions: a folder, or a tar"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]
