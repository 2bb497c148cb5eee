"""`ureca export masks`: adds a mask head to a bundle and checks that its masks stay the same."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ureca.config import load_config
from ureca.export.config import ExportConfig
from ureca.export.mask_head import add_mask_head
from ureca.export.parity.masks import make_golden_case
from ureca.export.parity.masks_report import MaskProof, format_mask_proof, list_mask_failures
from ureca.export.parity.parity_inputs import ParityCase, find_cases

_EPILOG = """examples:
  ureca export masks runs/masks-b2/checkpoint --bundle bundle
  ureca export masks runs/masks-a/checkpoint --bundle bundle --trunk-weights ../shared/data2/weights
  ureca export masks CHECKPOINT --bundle bundle --regions regions.jsonl.gz --images images

The bundle must exist (ureca export CHECKPOINT -o BUNDLE). Its other files keep their bytes, and a
later export of a captioner into the same folder keeps the mask head (docs/masks.md).

exit status: 0 the mask head was added, or renewed; 1 it failed the parity check and the bundle is
unchanged; 2 an input was refused"""


def main(argv: Sequence[str]) -> int:
    """Run the command; see `--help`."""
    options = _build_parser().parse_args(argv)
    overrides = [] if options.opset is None else [f"opset={options.opset}"]
    config = load_config(ExportConfig, options.config, overrides)
    cases, source = _find_mask_cases(options.regions, options.images, config.parity_regions)
    proof = add_mask_head(
        options.checkpoint,
        options.bundle,
        config=config,
        cases=cases,
        source=source,
        trunk_weights=options.trunk_weights,
    )
    return _show(proof, config, as_json=options.json)


def _find_mask_cases(
    regions: Path | None, images: Path | None, limit: int
) -> tuple[list[ParityCase], str]:
    """Pictures as for a captioner; without a data folder the picture of the self-test is first."""
    cases, source = find_cases(regions, images, limit=limit)
    if not source.startswith("synthetic"):
        return cases, source
    return [make_golden_case(), *cases], f"golden.png, and {source}"


def _show(proof: MaskProof, config: ExportConfig, *, as_json: bool) -> int:
    """Print the proof; returns the exit status, 1 when it failed."""
    bad = list_mask_failures(proof, asdict(config.tolerances))
    if as_json:
        sys.stdout.write(json.dumps({**asdict(proof), "failures": bad}, indent=2) + "\n")
        return int(bool(bad))
    sizes = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in proof.sizes.items())
    lines = [
        proof.cases,
        *format_mask_proof(proof),
        f"weights stored as {proof.stored}: {sizes}",
        *(f"FAILED: {reason}" for reason in bad),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(bad))


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca export masks",
        description="Add a mask head to a bundle, and check its parity.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="folder with the head's config.json and model.safetensors")
    add("--bundle", type=Path, required=True, help="folder of the bundle")
    add("--trunk-weights", default="", metavar="DIR", help="folder of yolox-nano.bin [the cache]")
    add("--opset", type=int, help="ONNX opset (default: 20)")
    add("--config", type=Path, help="configs/export/*.yaml")
    add("--regions", type=Path, help="regions-*.jsonl[.gz] for the parity check")
    add("--images", type=Path, help="the images of these regions: a folder, or a tar")
    add("--json", action="store_true", help="print the report as one JSON document")
    return parser
