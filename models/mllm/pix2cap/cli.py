"""`ureca mllm pix2cap`: captions for every segment of a universal segmenter (arXiv 2501.13893)."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ureca.config import load_config
from ureca.extras import require
from ureca.models.mllm.pix2cap.config import Pix2CapConfig

_EPILOG = """examples:
  ureca mllm pix2cap wrap mask2former-swin-large-coco-panoptic --language smollm2 -o runs/pix2cap
  ureca mllm pix2cap wrap oneformer-coco --language tokenizer.json -o runs/pix2cap  # fresh decoder
  ureca mllm pix2cap train configs/train/pix2cap-stage1.yaml --out runs/pix2cap-one
  torchrun --nproc-per-node 2 -m ureca.models.mllm.pix2cap.train configs/train/pix2cap-stage2.yaml
  ureca mllm pix2cap plan
  ureca panoptic photos --bundle runs/pix2cap-two/checkpoint -o segments

docs/pix2cap.md says what is the paper's and what is ours."""
_OTHERS = {
    "train": ("ureca.models.mllm.pix2cap.train", "train one stage"),
    "plan": ("ureca.models.mllm.pix2cap.plan", "memory of training, computed"),
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
    from ureca.models.mllm.pix2cap.checkpoint import wrap_segmenter

    config = load_config(Pix2CapConfig, options.config, options.set)
    out = wrap_segmenter(
        options.segmenter, options.out, config, language=options.language, seed=options.seed
    )
    sys.stdout.write(
        f"checkpoint: {out} (its caption head is untrained)\n"
        f"next: ureca mllm pix2cap train configs/train/pix2cap-stage1.yaml --set start_from={out}\n"
    )
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca mllm pix2cap",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wrap = parts.add_parser("wrap", help="make a checkpoint over a segmenter of transformers")
    wrap.add_argument("segmenter", type=Path, help="folder of save_pretrained")
    wrap.add_argument("-o", "--out", type=Path, required=True, help="folder for the checkpoint")
    wrap.add_argument(
        "--language",
        type=Path,
        required=True,
        help="folder of a causal language model, or a tokenizer.json for a fresh decoder",
    )
    wrap.add_argument("--config", type=Path, help="YAML of Pix2CapConfig")
    wrap.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one")
    wrap.add_argument("--seed", type=int, default=0, help="of what is fresh (%(default)s)")
    for name, (module, about) in _OTHERS.items():
        parts.add_parser(name, help=about, description=f"see {module}")
    return parser
