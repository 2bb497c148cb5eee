"""The options of `ureca eval`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from ureca.datatypes import Style
from ureca.models.data.regions import HELD_OUT_EVERY
from ureca.models.evaluation.captioners.mask_variants import MASK_KINDS, MaskKind

BaselineName = Literal["frequent", "neighbours", "imagenet"]
BASELINES: Final[tuple[BaselineName, ...]] = get_args(BaselineName)
StyleOption = Literal["auto", "short", "long"]

_EPILOG = """examples:
  ureca eval BUNDLE --data DATA -o report
  ureca eval runs/nano/checkpoint --data DATA --data WORLDS -o report --video
  ureca eval BUNDLE --data DATA -o noisy --masks noisy
  ureca eval BUNDLE --data DATA -o control --image-only     # uniqueness must fall to chance
  ureca eval --baseline neighbours --data DATA -o knn
  ureca eval --captions captions.jsonl --data DATA -o scored
  ureca eval --compare report noisy control -o table
  ureca eval dlc --help        # DLC-Bench, with a judge
  ureca eval vip --help        # ViP-Bench, with a judge
  ureca eval res --help        # text to regions: which one, several or none

A data folder has regions-*.jsonl[.gz] and images/. Of regions-train* only the pictures whose hash
is held out are used. The folder given with -o gets metrics.json, captions.jsonl and report.html,
which shows pictures of the data set: mind their terms.

Exit status: 0 done, 1 some regions could not be captioned (see stderr), 2 it could not be run."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The parsed options; see `ureca eval --help`."""

    model: Path | None
    data: tuple[Path, ...]
    out: Path
    baseline: BaselineName | None
    captions: Path | None
    compare: tuple[Path, ...]
    masks: MaskKind
    style: StyleOption
    held_out_every: int
    limit: int | None
    seed: int
    video: bool
    video_every: int
    masks_from: Path | None
    train_pictures: int
    meteor: bool
    similarity: bool
    vocab: Path | None
    report: bool
    samples: int
    json: bool
    threads: int | None

    @property
    def styles(self) -> tuple[Style, ...]:
        """`auto` is short captions, and long ones where people wrote some."""
        return ("short", "long") if self.style == "auto" else (self.style,)


def parse_options(argv: Sequence[str] | None) -> Options:
    """Parse the command line; a wrong option ends the program with exit status 2."""
    parser = _build_parser()
    found = parser.parse_args(argv)
    ways = [found.model, found.baseline, found.captions, found.compare or None]
    if sum(way is not None for way in ways) != 1:
        parser.error("give exactly one of BUNDLE_OR_CHECKPOINT, --baseline, --captions, --compare")
    if not found.data and not found.compare:
        parser.error("--data is needed: a folder with regions-*.jsonl.gz and images/")
    if found.image_only:
        found.masks = "image"
    values = {name: value for name, value in vars(found).items() if name != "image_only"}
    return Options(
        **{**values, "data": tuple(found.data), "compare": tuple(found.compare)},
    )


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca eval",
        description="Measure captions of held-out regions, by source, mask, type and fault.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_input_options(parser)
    _add_measure_options(parser)
    _add_output(parser)
    return parser


def _add_input_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="BUNDLE_OR_CHECKPOINT")
    add("--data", type=Path, action="append", default=[], help="data folder; may be repeated")
    add("--baseline", choices=BASELINES, help="instead of a model")
    add("--captions", type=Path, metavar="FILE", help="score a file of captions instead")
    add("--compare", type=Path, nargs="+", default=[], metavar="DIR", help="finished evaluations")
    add(
        "--held-out-every",
        type=parse_positive,
        default=HELD_OUT_EVERY,
        metavar="N",
        help=f"one picture in N [{HELD_OUT_EVERY}]",
    )
    add("--limit", type=parse_positive, help="at most this many regions of each data folder")
    add("--style", choices=("auto", "short", "long"), default="auto")


def _add_measure_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--masks",
        choices=MASK_KINDS,
        default="true",
        help="noisy: with the errors of a tracker, IoU about 0.7",
    )
    add("--image-only", action="store_true", help="control: the same as --masks image")
    add("--video", action="store_true", help="flicker on the clips of DATA/videos")
    add("--video-every", type=parse_positive, default=5, metavar="K", help="every K-th frame [5]")
    add(
        "--masks-from",
        type=Path,
        metavar="DIR",
        help="folder with the masks of a tracker, one CLIP.jsonl per clip",
    )
    add(
        "--train-pictures",
        type=parse_positive,
        default=1500,
        help="training images of a baseline [1500]",
    )
    add("--seed", type=int, default=0, help="random seed of noisy masks and samples [0]")
    add("--threads", type=parse_positive, help="of the model")
    add("--vocab", type=Path, help="MiniLM vocab.txt or tokenizer.json; or set MINILM_VOCAB")
    add(
        "--no-meteor",
        dest="meteor",
        action="store_false",
        help="leave METEOR out; saves about a minute",
    )
    add("--no-similarity", dest="similarity", action="store_false")


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, help="folder for the results")
    add("--no-report", dest="report", action="store_false", help="no report.html")
    add("--samples", type=parse_positive, default=24, help="images of each kind in the report [24]")
    add("--json", action="store_true", help="print metrics.json instead of a table")


def parse_positive(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value
