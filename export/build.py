"""`ureca export`: a checkpoint becomes a bundle, with the proof that it still says the same."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import onnxruntime
import torch
from tqdm import tqdm

from ureca.bundle import BundleManifest, file_spec
from ureca.config import load_config
from ureca.errors import ConfigError
from ureca.export.cache import cached_graph
from ureca.export.cases import Case, find_cases, prepared
from ureca.export.config import ExportConfig
from ureca.export.graphs import export_graph
from ureca.export.parity import edge_diff
from ureca.export.prove import Proof, Protos, choose_int8, embedding_table, open_graphs
from ureca.export.quantise import stored_as_f16
from ureca.export.report import Report, Trial
from ureca.export.write import Files, check_checkpoint
from ureca.models.nano.captioner import Captioner
from ureca.models.nano.checkpoint import CONFIG, WEIGHTS, load_checkpoint
from ureca.models.runtime.graphs import GRAPHS, LM_STATIC
from ureca.models.runtime.load import load_backend
from ureca.models.runtime.ort import OrtBackend

Say = Callable[[str], None]

_EPILOG = """examples:
  ureca export runs/nano -o bundle
  ureca export runs/nano -o exact --precision fp32
  ureca export runs/nano -o bundle --regions regions.jsonl.gz --images images

exit status: 0 the bundle was written; 1 it failed its parity proof: OUT/parity.failed.json says
why, and whatever was in OUT before is untouched; 2 an input was refused"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _parser().parse_args(argv)
    config = load_config(ExportConfig, options.config)
    names = ("precision", "opset", "max_regions", "static_cache")
    given = {name: getattr(options, name) for name in names}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
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
    sys.stdout.write(report.table() + "\n")
    return 1 if report.failures() else 0


def export_bundle(
    checkpoint: Path, out: Path, *, config: ExportConfig, cases: Sequence[Case], source: str
) -> Report:
    """Export `checkpoint` to the folder `out`; a bundle that fails its proof gets no manifest.

    `cases` are what the graphs are compared on, `source` describes them in the report. Raises
    `WeightsError` for a checkpoint that cannot be read.
    """
    model = load_checkpoint(checkpoint)
    check_checkpoint(checkpoint, model.config)
    out.mkdir(parents=True, exist_ok=True)
    with (
        _progress(len(GRAPHS) + 3) as say,
        tempfile.TemporaryDirectory(dir=out.parent) as stage,
    ):
        masters = _masters(model, checkpoint, config, say)
        say("the checkpoint's captions")
        proof = Proof(model, [prepared(case, model.config.vision) for case in cases])
        say("precision per graph")
        graphs, trials = _graphs(proof, masters, config)
        files = Files(Path(stage), graphs, checkpoint=checkpoint, config=config)
        manifest = files.write(embedding_table(model), model.config)
        say("parity")
        bundle = load_backend(Path(stage), manifest)
        report = _report(
            proof,
            masters,
            bundle,
            manifest=manifest,
            trials=trials,
            config=config,
            source=source,
        )
        files.remember(manifest)
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
        make = partial(export_graph, model, name, opset=config.opset)
        masters[name] = cached_graph(name, make, checkpoint_sha256=sha256, opset=config.opset)
    return masters


def _graphs(proof: Proof, masters: Protos, config: ExportConfig) -> tuple[Protos, dict[str, Trial]]:
    """The graphs that ship: float32 as they are, or int8 where it holds and float16 storage."""
    if config.precision == "fp32":
        return masters, {}
    graphs, trials = choose_int8(
        proof, masters, embedding_table(proof.model), minimum=config.tolerances.int8_agreement
    )
    return {name: stored_as_f16(proto) for name, proto in graphs.items()}, trials


def _report(
    proof: Proof,
    masters: Protos,
    bundle: OrtBackend,
    *,
    manifest: BundleManifest,
    trials: dict[str, Trial],
    config: ExportConfig,
    source: str,
) -> Report:
    exact = open_graphs(masters, embedding_table(proof.model), proof.model.config)
    regions, equal = proof.uncached_equal(exact)
    float32 = proof.compare(exact)
    return Report(
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
        description="Turn a checkpoint into a bundle that the node runs, and prove it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="folder with model.safetensors")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the bundle")
    parser.add_argument("--precision", choices=("int8", "fp32"), help="default: int8")
    parser.add_argument("--opset", type=int, help="ONNX opset (default: 24)")
    parser.add_argument("--max-regions", type=_count, metavar="N", help="rows of a call (32)")
    parser.add_argument(
        "--static-cache", action="store_true", default=None, help="add lm_static, for GPU runtimes"
    )
    parser.add_argument("--config", type=Path, help="configs/export/*.yaml")
    parser.add_argument("--regions", type=Path, help="regions-*.jsonl[.gz] for the proof")
    parser.add_argument("--images", type=Path, help="their pictures: a folder, or a tar")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number
