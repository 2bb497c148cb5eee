"""`ureca mllm unires`: texts to masks of parts, things, several or none (arXiv 2504.01954)."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ureca.config import load_config
from ureca.extras import require
from ureca.models.mllm.unires.config import UniresConfig

_EPILOG = """examples:
  ureca mllm wrap llava-onevision-0.5b -o runs/llava --config configs/model/llava-onevision.yaml
  ureca mllm unires wrap runs/llava --detail convnext-large-384 --decoder sam2-hiera-large \\
      -o runs/unires
  ureca mllm unires train configs/train/unires-stage1.yaml --out runs/unires-one
  torchrun --nproc-per-node 2 -m ureca.models.mllm.unires.train configs/train/unires-stage2.yaml
  ureca mllm unires plan
  ureca describe photo.jpg --text "the mug's handle" --bundle runs/unires-two/checkpoint
  ureca eval res --data DATA --bundle runs/unires-two/checkpoint --candidates own

docs/unires.md says what is the paper's and what is ours."""
_OTHERS = {
    "train": ("ureca.models.mllm.unires.train", "train one stage"),
    "plan": ("ureca.models.mllm.unires.plan", "memory of training, computed"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] and arguments[0] in _OTHERS:
        module = importlib.import_module(_OTHERS[arguments[0]][0])
        return int(module.main(arguments[1:]))
    options = _build_parser().parse_args(arguments)
    require("torch", extra="mllm")
    return _wrap(options)


def _wrap(options: argparse.Namespace) -> int:
    from ureca.models.mllm.unires.checkpoint import wrap_captioner

    config = load_config(UniresConfig, options.config, options.set)
    out = wrap_captioner(
        options.captioner,
        options.out,
        config,
        detail=options.detail,
        decoder=options.decoder,
        seed=options.seed,
    )
    sys.stdout.write(
        f"checkpoint: {out} (its flow and its answers are untrained)\n"
        f"next: ureca mllm unires train configs/train/unires-stage1.yaml --set start_from={out}\n"
    )
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca mllm unires",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wrap = parts.add_parser("wrap", help="make a checkpoint over a captioner of `ureca mllm`")
    wrap.add_argument("captioner", type=Path, help="checkpoint of `ureca mllm wrap` or `train`")
    wrap.add_argument("-o", "--out", type=Path, required=True, help="folder for the checkpoint")
    wrap.add_argument(
        "--detail", type=Path, required=True, help="high-resolution tower: a ConvNeXt's folder"
    )
    wrap.add_argument("--decoder", type=Path, required=True, help="folder of a SAM or SAM 2")
    wrap.add_argument("--config", type=Path, help="YAML of UniresConfig")
    wrap.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one")
    wrap.add_argument("--seed", type=int, default=0, help="of what is fresh (%(default)s)")
    for name, (module, about) in _OTHERS.items():
        parts.add_parser(name, help=about, description=f"see {module}")
    return parser
