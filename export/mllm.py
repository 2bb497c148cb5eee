"""`ureca export` and `ureca verify` of `ureca-mllm`: a verified bundle of tensors that torch runs.

The bundle holds the model itself with merged adapters, and needs torch where it runs.
`export/mllm_parity.py` is its parity check. With `--runtime onnx` the bundle holds graphs instead
(`export/language_model`).
"""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import torch
from safetensors import safe_open

from ureca.bundle import (
    MANIFEST_NAME,
    BundleManifest,
    Limits,
    TokenIds,
    file_spec,
    load_manifest,
    write_manifest,
)
from ureca.config import load_config, to_plain
from ureca.errors import BundleError, ConfigError
from ureca.export.bundle_writer import CARD, FAILED, PARITY, write_self_test
from ureca.export.config import ExportConfig, Tolerances
from ureca.export.mllm_parity import check_parity
from ureca.export.parity.parity_inputs import ParityCase, find_cases
from ureca.export.report import print_report
from ureca.export.verify import Verification, find_full_size
from ureca.extras import require
from ureca.models.mllm.checkpoints.checkpoint import (
    CONFIG,
    TOKENIZER,
    hash_base,
    hash_checkpoint,
    load_checkpoint,
    read_config,
    save_parts,
)
from ureca.models.mllm.config import Precision
from ureca.models.mllm.mllm_engine import open_checkpoint
from ureca.models.runtime.compatibility import TRANSFORMERS

_REGIONS = 32
"""Regions that the parity check compares. Logits of large vocabularies need much memory."""
_KINDS = ("fp32", "bf16", "int8", "int4")


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` holds a checkpoint of `ureca-mllm`."""
    return (folder / CONFIG).is_file()


def export_command(options: Namespace) -> int:
    """`ureca export CHECKPOINT -o OUT` for such a checkpoint."""
    if options.runtime == "onnx":
        return _export_graphs(options)
    kind = options.precision
    if kind is not None and kind not in _KINDS:
        raise ConfigError(f"--precision of a ureca-mllm bundle is one of {_KINDS}, got {kind}")
    _refuse(options, ("runtime", "target", "opset", "buckets", "static_cache"))
    cases, source = find_cases(options.regions, options.images, limit=_REGIONS)
    report = export_mllm(
        options.checkpoint,
        options.out,
        cases=cases,
        source=source,
        precision=kind,
        max_regions=options.max_regions,
        tolerances=load_config(ExportConfig, options.config).tolerances,
    )
    return print_report(report, as_json=options.json)


def _export_graphs(options: Namespace) -> int:
    """`--runtime onnx`: graphs that the node runs without torch."""
    graphs = require("ureca.export.language_model.bundle", extra="export")
    kind = options.precision or graphs.KINDS[0]
    if kind not in graphs.KINDS:
        raise ConfigError(f"--precision of its graphs is one of {graphs.KINDS}, got {kind}")
    _refuse(options, ("target", "buckets", "static_cache"))
    config = load_config(ExportConfig, options.config)
    given = graphs.GraphOptions(
        kind=kind,
        opset=options.opset or config.opset,
        max_regions=options.max_regions,
        tolerances=config.tolerances,
    )
    cases, source = find_cases(options.regions, options.images, limit=_REGIONS)
    report = graphs.export_graphs(
        options.checkpoint, options.out, cases=cases, source=source, options=given
    )
    return print_report(report, as_json=options.json)


def _refuse(options: Namespace, names: Sequence[str]) -> None:
    for name in names:
        if getattr(options, name) not in {None, "auto"}:
            raise ConfigError(
                f"--{name.replace('_', '-')} does not apply to a full-size captioner: torch runs "
                "it, or ONNX Runtime on a CPU with --runtime onnx"
            )


def export_mllm(
    checkpoint: Path,
    out: Path,
    *,
    cases: Sequence[ParityCase],
    source: str,
    precision: Precision | None = None,
    max_regions: int | None = None,
    tolerances: Tolerances | None = None,
) -> Verification:
    """Merge adapters, write the bundle and check parity. A bundle that fails is not published.

    Raises `WeightsError` for a checkpoint that cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (out / MANIFEST_NAME).exists():
        raise BundleError(f"{out} holds a bundle already: choose another folder, or remove it")
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        stage = Path(place) / "bundle"
        _write_files(checkpoint, stage, precision=precision, max_regions=max_regions)
        manifest = _build_manifest(checkpoint, stage, tolerances or Tolerances())
        report = check_parity(checkpoint, stage, manifest, cases=cases, source=source)
        report = replace(report, bundle_sha256="")  # set later: the hash covers this report
        report.save(stage / PARITY)
        if report.failures():
            report.save(out / FAILED)
            return report
        write_self_test(open_checkpoint(stage), stage)
        names = [p.relative_to(stage).as_posix() for p in sorted(stage.rglob("*")) if p.is_file()]
        extra = tuple(file_spec(stage, n) for n in names if n not in _list_files(manifest))
        for path in stage.iterdir():
            shutil.move(path, out / path.name)
        write_manifest(out, msgspec.structs.replace(manifest, extra_files=extra))
    return report


def verify_mllm(
    bundle: Path, checkpoint: Path | None, *, cases: Sequence[ParityCase], source: str
) -> Verification:
    """Verify a bundle's hashes and compare it with its checkpoint. Raises `BundleError`."""
    manifest = load_manifest(bundle)
    checkpoint = find_full_size(bundle, checkpoint)
    got = hash_checkpoint(checkpoint)
    if got != manifest.checkpoint_sha256:
        raise BundleError(
            f"{checkpoint} is another checkpoint: it has sha256 {got}, the bundle was made from "
            f"{manifest.checkpoint_sha256}"
        )
    opener = require("ureca.models.mllm.mllm_engine", extra="mllm")
    opener.open_bundle(bundle, manifest, threads=None)
    return check_parity(checkpoint, bundle, manifest, cases=cases, source=source)


def _write_files(
    checkpoint: Path, stage: Path, *, precision: Precision | None, max_regions: int | None
) -> None:
    """Write the base with merged adapters, the mask encoder, the tokenizer and the model card."""
    asked = precision or read_config(checkpoint).precision
    stored: Precision = "fp32" if asked == "fp32" else "bf16"
    model = load_checkpoint(checkpoint, precision=stored)
    model.base.save_pretrained(stage / "base")
    config = replace(
        model.config,
        base="base",
        base_sha256=hash_base(stage / "base"),
        lora=None,
        projector=False,
        precision=asked,
        max_regions=max_regions or model.config.max_regions,
    )
    save_parts(stage, model, config=config, tokenizer=checkpoint / TOKENIZER)
    if (checkpoint / CARD).is_file():
        shutil.copyfile(checkpoint / CARD, stage / CARD)


def _build_manifest(checkpoint: Path, stage: Path, tolerances: Tolerances) -> BundleManifest:
    engine = open_checkpoint(stage, device="cpu")
    config, prompt = engine.config, engine.prompt
    package = require("transformers", extra="mllm")
    stop, mark = prompt.stop_ids[0], [*prompt.mark_ids, prompt.mask_id][0]
    return BundleManifest(
        model=to_plain(config),
        checkpoint_sha256=hash_checkpoint(checkpoint),
        graphs={},
        embeddings=file_spec(stage, _find_embedding_file(stage)),
        tokenizer=file_spec(stage, TOKENIZER),
        # Both instructions are text; what they have in common is the token they begin with.
        tokens=TokenIds(pad=stop, short=mark, long=mark, eos=stop),
        limits=Limits(max_regions=config.max_regions, max_new_tokens=config.max_new_tokens),
        runtime=TRANSFORMERS,
        runtime_version=f"{package.__version__} torch {torch.__version__}",
        tolerances=asdict(tolerances),
    )


def _find_embedding_file(stage: Path) -> str:
    """Return the file of the base that holds its word embeddings."""
    for path in sorted((stage / "base").glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            if any(name.endswith("embed_tokens.weight") for name in tensors.keys()):  # noqa: SIM118
                return f"base/{path.name}"
    raise BundleError(f"{stage / 'base'} holds no table of word embeddings")


def _list_files(manifest: BundleManifest) -> set[str]:
    return {MANIFEST_NAME, manifest.embeddings.file, manifest.tokenizer.file}
