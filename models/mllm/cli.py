"""`ureca mllm`: make and wrap a base model, convert the published weights, train, plan, bench."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ureca.config import load_config
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.mllm.config import MllmConfig

EXTRA = "mllm"
_EPILOG = """examples:
  ureca mllm wrap InternVL3-1B-hf -o runs/base --config configs/model/internvl.yaml
  ureca mllm join -o runs/smol-base                                  # SmolLM2 and the nano's trunk
  ureca mllm wrap runs/smol-base -o runs/ureca-smol --parts models/pretrained/ureca-smol
  ureca mllm join -o runs/fine-base --config configs/finecaption/full.yaml
  ureca mllm pack runs/two/checkpoint -o my-parts
  ureca mllm convert URECA-8B -o runs/ureca-8b
  ureca mllm train configs/train/mllm-stage1.yaml --out runs/one
  torchrun --nproc-per-node 2 -m ureca.models.mllm.training.train configs/train/mllm-stage2.yaml
  ureca mllm plan
  ureca mllm bench runs/two/checkpoint --regions 8

a checkpoint becomes a bundle with: ureca export CHECKPOINT -o BUNDLE"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] and arguments[0] in _OTHERS:
        module = importlib.import_module(_OTHERS[arguments[0]])
        return int(module.main(arguments[1:]))
    options = _build_parser().parse_args(arguments)
    require("torch", extra=EXTRA)
    return _OWN[options.command](options)


def _wrap(options: argparse.Namespace) -> int:
    from ureca.models.mllm.checkpoints.wrap import wrap_base

    given = load_config(MllmConfig, options.config, options.set) if _read_config(options) else None
    if options.parts is not None:
        if given is not None:
            raise ConfigError("--parts brings its own configuration: leave out --config and --set")
        out = wrap_base(options.base, options.out, parts=options.parts)
        sys.stdout.write(f"checkpoint: {out}\nnext: ureca export {out} -o BUNDLE\n")
        return 0
    out = wrap_base(options.base, options.out, given, seed=options.seed)
    sys.stdout.write(
        f"checkpoint: {out} (its mask encoder is untrained)\n"
        "next: ureca mllm train configs/train/mllm-stage1.yaml --set "
        f"start_from={out}\n"
    )
    return 0


def _convert(options: argparse.Namespace) -> int:
    from ureca.models.mllm.checkpoints.convert import Compatibility, convert_checkpoint

    scale = None if options.scale is None else options.scale == "255"
    how = Compatibility(
        legacy_scale=scale,
        alpha_over_rank=options.alpha_over_rank,
        max_tiles=options.max_tiles,
    )
    out = convert_checkpoint(options.folder, options.out, how)
    sys.stdout.write(f"checkpoint: {out}\nnext: ureca export {out} -o BUNDLE --precision bf16\n")
    return 0


def _join(options: argparse.Namespace) -> int:
    if _read_config(options):
        return _join_finecaption(options)
    from ureca.models.mllm.checkpoints.compose import NANO, join_models

    nano = options.nano or NANO
    out = join_models(options.out, language=options.language, nano=nano, seed=options.seed)
    sys.stdout.write(
        f"base: {out} (its image projector is untrained)\n"
        f"next: ureca mllm wrap {out} -o CHECKPOINT --config configs/model/smol.yaml, "
        "or --parts models/pretrained/ureca-smol\n"
    )
    return 0


def _join_finecaption(options: argparse.Namespace) -> int:
    from ureca.models.mllm.finecaption.join import FineCaptionParts, join_finecaption

    if options.language or options.nano:
        raise ConfigError("--config names all parts: leave out --language and --nano")
    parts = load_config(FineCaptionParts, options.config, options.set)
    out = join_finecaption(options.out, parts, seed=options.seed)
    sys.stdout.write(
        f"base: {out} (its adapter is untrained, its mask convolution is zero)\n"
        f"next: ureca mllm wrap {out} -o CHECKPOINT\n"
    )
    return 0


def _pack(options: argparse.Namespace) -> int:
    from ureca.models.mllm.checkpoints.wrap import pack_parts

    out = pack_parts(options.checkpoint, options.out)
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    sys.stdout.write(
        f"parts: {out}, {size / 1e6:.1f} MB\nnext: ureca mllm wrap BASE --parts {out}\n"
    )
    return 0


def _read_config(options: argparse.Namespace) -> bool:
    return options.config is not None or bool(options.set)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca mllm",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wrap = parts.add_parser("wrap", help="make a checkpoint from a base model of transformers")
    wrap.add_argument("base", type=Path, help="folder of save_pretrained")
    wrap.add_argument("-o", "--out", type=Path, required=True, help="folder for the checkpoint")
    wrap.add_argument("--config", type=Path, help="YAML of MllmConfig (configs/model/)")
    wrap.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one")
    wrap.add_argument("--seed", type=int, default=0, help="of the mask encoder (%(default)s)")
    wrap.add_argument(
        "--parts", type=Path, metavar="DIR", help="a folder of `pack`: all trained parts"
    )
    join = parts.add_parser(
        "join",
        help="make a base model from the trunk of ureca-nano and a language model, or "
        "FineCaption's of its parts",
    )
    join.add_argument("-o", "--out", type=Path, required=True, help="folder for the base")
    join.add_argument(
        "--language", type=Path, help="folder with a GGUF file or of save_pretrained [smollm2]"
    )
    join.add_argument("--nano", type=Path, help="checkpoint of the nano [the shipped one]")
    join.add_argument("--seed", type=int, default=0, help="of the projector (%(default)s)")
    join.add_argument("--config", type=Path, help="YAML of FineCaptionParts (configs/finecaption/)")
    join.add_argument("--set", action="append", default=[], metavar="a=b", help="override one")
    pack = parts.add_parser(
        "pack", help="write the trained parts in float16, without the base model"
    )
    pack.add_argument("checkpoint", type=Path)
    pack.add_argument("-o", "--out", type=Path, required=True, help="folder for the parts")
    convert = parts.add_parser("convert", help="make a checkpoint from the published URECA weights")
    convert.add_argument("folder", type=Path, help="config.json, tokenizer and weights")
    convert.add_argument("-o", "--out", type=Path, required=True, help="folder for the checkpoint")
    convert.add_argument(
        "--scale", choices=("1", "255"), help="masks of 0..1 or 0..255 (by config)"
    )
    convert.add_argument(
        "--alpha-over-rank",
        type=_parse_positive,
        default=2.0,
        help="of unmerged adapters (%(default)s)",
    )
    convert.add_argument("--max-tiles", type=int, help="12: as its demonstration (by config)")
    for name, module in _OTHERS.items():
        parts.add_parser(name, help=_HELP[name], description=f"see {module}")
    return parser


def _parse_positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ConfigError(f"expected a number above 0, got {text}")
    return number


_OWN: dict[str, Callable[[argparse.Namespace], int]] = {
    "wrap": _wrap,
    "convert": _convert,
    "join": _join,
    "pack": _pack,
}
_OTHERS = {
    "train": "ureca.models.mllm.training.train",
    "plan": "ureca.models.mllm.memory_estimate",
    "bench": "ureca.models.mllm.bench",
    "pix2cap": "ureca.models.mllm.pix2cap.cli",
    "unires": "ureca.models.mllm.unires.cli",
}
_HELP = {
    "train": "train one stage",
    "plan": "memory and time of training 1B, 2B and 8B, computed",
    "bench": "our engine (image encoded once) against one `generate` per region",
    "pix2cap": "captions for every segment of a universal segmenter (docs/pix2cap.md)",
    "unires": "texts to masks of parts, things, several or none (docs/unires.md)",
}
