"""`ureca verify`: checks on this machine that a bundle still gives the captions of its
checkpoint.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from ureca.bundle import BundleManifest, bundle_sha, load_manifest
from ureca.bundle import file_spec as hashed
from ureca.errors import BundleError, ConfigError, MissingExtraError
from ureca.export.config import Tolerances
from ureca.export.parity.caption_quality import CaptionScores, compare_caption_scores
from ureca.export.parity.comparison import Agreement, ProbeOutput
from ureca.export.parity.parity_checks import ParityProof
from ureca.export.parity.parity_inputs import ParityCase, find_cases, prepare_arrays
from ureca.export.report import build_document, format_figures, print_report
from ureca.extras import require
from ureca.models.nano.checkpoint import TOKENIZER, WEIGHTS, load_checkpoint
from ureca.models.runtime.compatibility import MLLM_CONFIG, TRANSFORMERS
from ureca.models.runtime.load import load_backend
from ureca.models.runtime.trt import PACKAGES
from ureca.models.tokenizer import Tokenizer

_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE]-?\d+)?")

_EPILOG = """examples:
  ureca verify models/pretrained/ureca-nano
  ureca verify bundle --checkpoint runs/nano/checkpoint --limit 1000 -o parity.json
  ureca verify bundle --checkpoint runs/nano/checkpoint --tolerance int8_agreement=0.99

exit status: 0 the captions agree within the tolerances of the manifest; 1 they do not (the last
lines say why); 2 the check could not run: a file is missing or altered"""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared, and the results."""

    bundle_sha256: str
    checkpoint_sha256: str
    proven_with: str
    versions: dict[str, str]
    cases: str
    tolerances: Tolerances
    quantised: bool
    bundle: Agreement
    alone_exact: float
    control: Agreement
    words: CaptionScores | None
    coarse: bool = False
    """Whether the language model is in int4, which has a bound of its own."""
    not_proven: dict[str, str] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """Reasons why the bundle must not be used; empty if it may be used."""
        bounds, bad = self.tolerances, []
        needed = bounds.int8_agreement if self.quantised else bounds.float_agreement
        needed = bounds.int4_agreement if self.coarse else needed
        if not self.bundle.teacher_forced >= needed:
            got = self.bundle.teacher_forced
            bad.append(f"forced choices agree to {got:.4f}, the manifest asks for {needed}")
        difference = self.bundle.max_abs_logit_diff
        if not self.quantised and not difference <= bounds.max_abs_logit_diff:
            bad.append(f"logits differ by {difference:.2e}, allowed {bounds.max_abs_logit_diff}")
        if self.control.teacher_forced >= bounds.control_agreement:
            bad.append("weights of another seed agree as well: the comparison proves nothing")
        if self.words is not None and not self.words.meteor_drop <= bounds.meteor_drop:
            lost = self.words.meteor_drop
            bad.append(f"METEOR falls by {lost:.4f}, allowed {bounds.meteor_drop}")
        return bad

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(build_document(self), encoding="utf8")

    def table(self) -> str:
        """Return the report as text for a terminal."""
        head = f"{'against torch':<16}{'max|dlogit|':>12}{'forced':>9}{'free':>9}{'exact':>9}"
        lines = [f"{self.cases}: {self.bundle.regions} regions, {self.bundle.tokens} tokens", head]
        rows = (("bundle", self.bundle), ("other seed", self.control))
        lines += [f"{name:<16}{format_figures(agreed)}" for name, agreed in rows]
        lines.append(f"alone as in batch: {self.alone_exact:.3f} of captions")
        if self.words is not None:
            lines.append(_format_quality(self.words))
        lines += [f"NOT PROVEN: {what}: {why}" for what, why in self.not_proven.items()]
        lines += [f"FAILED: {reason}" for reason in self.failures()]
        return "\n".join([*lines, *([] if self.failures() else ["verified"])])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _build_parser().parse_args(argv)
    manifest = load_manifest(options.bundle)
    tolerances = _merge_tolerances(manifest, options.tolerance)
    if options.out is not None and options.out.resolve().parent == options.bundle.resolve():
        raise ConfigError(
            f"{options.out} lies in the bundle, whose files are fixed: write elsewhere"
        )
    cases, source = find_cases(options.regions, options.images, limit=options.limit)
    if manifest.runtime == TRANSFORMERS:
        ours = require("ureca.export.mllm", extra="mllm").verify_mllm
        report = ours(options.bundle, options.checkpoint, cases=cases, source=source)
        report = replace(report, tolerances=tolerances)
    elif manifest.language:
        ours = require("ureca.export.language_model.bundle", extra="mllm").verify_graphs
        folder = find_full_size(options.bundle, options.checkpoint)
        report = ours(options.bundle, folder, manifest, cases=cases, source=source)
        report = replace(report, tolerances=tolerances)
    else:
        report = verify(
            options.bundle,
            _find_checkpoint(options.bundle, options.checkpoint, manifest),
            manifest=manifest,
            tolerances=tolerances,
            cases=cases,
            source=source,
        )
    if options.out is not None:
        report.save(options.out)
    return print_report(report, as_json=options.json)


def verify(
    bundle: Path,
    checkpoint: Path,
    *,
    manifest: BundleManifest,
    tolerances: Tolerances,
    cases: Sequence[ParityCase],
    source: str,
) -> Verification:
    """Verify the bundle's hashes and compare it with its checkpoint, in logits and in captions.

    Raises `BundleError` for an altered file.
    """
    candidate = load_backend(bundle, manifest)
    model = load_checkpoint(checkpoint)
    pictures = tqdm(cases, desc="the checkpoint's captions", unit="picture", disable=None)
    proof = ParityProof(model, [prepare_arrays(case, model.config.vision) for case in pictures])
    heard = proof.run_captions(tqdm(proof.arrays, desc="the bundle's", disable=None), candidate)
    words, missing = _compare_quality(proof.reference, heard, cases, checkpoint)
    missing.update(_list_unproven(source, manifest))
    return Verification(
        bundle_sha256=bundle_sha(manifest),
        checkpoint_sha256=manifest.checkpoint_sha256,
        proven_with=f"{manifest.runtime} {manifest.runtime_version}",
        versions={p.__name__: str(p.__version__) for p in (torch, onnxruntime, np)},
        cases=source,
        tolerances=tolerances,
        quantised=any(g.precision != "fp32" for g in manifest.graphs.values()),
        bundle=proof.agreement(heard),
        alone_exact=proof.measure_alone_exact(candidate),
        control=proof.compare_control(),
        words=words,
        not_proven=missing,
    )


def _compare_quality(
    ours: Sequence[ProbeOutput],
    theirs: Sequence[ProbeOutput],
    cases: Sequence[ParityCase],
    checkpoint: Path,
) -> tuple[CaptionScores | None, dict[str, str]]:
    tokenizer = Tokenizer.load(checkpoint / TOKENIZER)
    references = [texts for case in cases for texts in case.references]
    if not any(references):
        return None, {"METEOR, CIDEr": "nobody described these regions in words"}
    texts = [[tokenizer.decode(ids) for s in side for ids in s.captions] for side in (ours, theirs)]
    try:
        return compare_caption_scores(texts[0], texts[1], references), {}
    except MissingExtraError as error:
        return None, {"METEOR, CIDEr": str(error)}


def _list_unproven(source: str, manifest: BundleManifest) -> dict[str, str]:
    absent = {}
    if manifest.runtime not in PACKAGES and manifest.target not in {"cuda", "tensorrt"}:
        absent["GPU runtimes"] = "no CUDA device was used"
    if manifest.mask_head:
        absent["masks of the mask head"] = "its files are unaltered, `ureca export masks` compares"
    if source.startswith("synthetic"):
        absent["real pictures"] = source
    return absent


def _find_checkpoint(bundle: Path, given: Path | None, manifest: BundleManifest) -> Path:
    """Return the checkpoint from which the bundle was made, checked by its sha256."""
    folder = given or bundle / "checkpoint"
    wanted = manifest.checkpoint_sha256
    if not (folder / WEIGHTS).is_file():
        raise BundleError(
            f"expected the checkpoint of this bundle, but {folder / WEIGHTS} is missing: give "
            f"--checkpoint DIR, whose {WEIGHTS} has sha256 {wanted}"
        )
    got = hashed(folder, WEIGHTS).sha256
    if got != wanted:
        raise BundleError(
            f"{folder} is another checkpoint: its {WEIGHTS} has sha256 {got}, the bundle was made "
            f"from {wanted}; give that one, or export this one: ureca export {folder} -o {bundle}"
        )
    return folder


def find_full_size(bundle: Path, given: Path | None) -> Path:
    """Return the checkpoint of `ureca-mllm` that was given. Raises `BundleError` for another."""
    if given is None or not (given / MLLM_CONFIG).is_file():
        raise BundleError(f"give --checkpoint DIR: what {bundle} was made from")
    return given


def _merge_tolerances(manifest: BundleManifest, given: Sequence[str]) -> Tolerances:
    """Return the manifest's bounds, replaced by those of the command line. Raises `ConfigError`."""
    values = {**asdict(Tolerances()), **manifest.tolerances}
    for text in given:
        name, _, number = text.partition("=")
        if name not in values or not _NUMBER.fullmatch(number):
            known = ", ".join(asdict(Tolerances()))
            raise ConfigError(f"--tolerance expects NAME=X, NAME of {known}; got {text!r}")
        values[name] = float(number)
    return Tolerances(**{name: values[name] for name in asdict(Tolerances())})


def _format_quality(words: CaptionScores) -> str:
    return (
        f"checkpoint -> bundle on {words.regions} regions with human words: METEOR "
        f"{words.meteor_checkpoint:.4f} -> {words.meteor_bundle:.4f}, CIDEr "
        f"{words.cider_checkpoint:.3f} -> {words.cider_bundle:.3f}"
    )


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca verify",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bundle", type=Path, help="folder with manifest.json")
    add("--checkpoint", type=Path, help="the exported checkpoint (default: BUNDLE/checkpoint)")
    add("--regions", type=Path, help="regions-*.jsonl[.gz] with held-out pictures")
    add("--images", type=Path, help="the images of these regions: a folder, or a tar")
    add("--limit", type=int, default=200, metavar="N", help="regions to compare (%(default)s)")
    add(
        "--tolerance",
        action="append",
        default=[],
        metavar="NAME=X",
        help="replaces a bound of the manifest; repeatable",
    )
    add("-o", "--out", type=Path, metavar="FILE", help="also write the report as JSON")
    add("--json", action="store_true", help="print the report as one JSON document")
    return parser
