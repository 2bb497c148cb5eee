"""The options of `ureca eval res`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from ureca.models.data.regions import HELD_OUT_EVERY
from ureca.models.evaluation.options import parse_positive
from ureca.models.evaluation.res.candidates import SEGMENTERS, SegmenterName
from ureca.models.evaluation.res.cases import Half, Texts

CandidateSource = Literal["given", "segmenter", "oracle", "own"]
SOURCES: Final[tuple[CandidateSource, ...]] = get_args(CandidateSource)

_EPILOG = """examples:
  ureca eval res --data DATA --bundle BUNDLE --json
  ureca eval res --data DATA --data WORLDS --bundle BUNDLE --half second --bag
  ureca worlds res -o runs/worlds-res
  ureca eval res --data runs/worlds-res --bundle BUNDLE --texts both
  ureca eval res --data DATA --bundle BUNDLE --candidates given segmenter oracle --limit 100
  ureca eval res --data DATA --bundle BUNDLE --statements statements-train.jsonl.gz
  ureca eval res --data DATA --bundle runs/unires/checkpoint    # a model with masks of its own

The texts are a region's `expressions`, or the folder's queries-*.jsonl.gz; the candidates are the
picture's regions (given), masks of a segmenter, or the best of these for each text (oracle). A
checkpoint of `ureca mllm unires` has no candidates: its own masks are the answers (own). Of
regions-train* only the pictures whose hash is held out are used.

Exit status: 0 done, 2 it could not be run."""


@dataclass(frozen=True, kw_only=True)
class ResOptions:
    """What was asked for; see `ureca eval res --help`."""

    bundle: Path
    data: tuple[Path, ...]
    candidates: tuple[CandidateSource, ...]
    segmenter: SegmenterName
    segmenter_folder: Path | None
    texts: Texts
    half: Half
    held_out_every: int
    limit: int | None
    bag: bool
    statements: tuple[Path, ...]
    seed: int
    threads: int | None
    out: Path | None
    json: bool


def parse(argv: Sequence[str] | None) -> ResOptions:
    """Options from the command line; a wrong one ends the program with exit status 2."""
    found = vars(_parser().parse_args(argv))
    lists = {name: tuple(found[name]) for name in ("data", "candidates", "statements")}
    return ResOptions(**(found | lists))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ureca eval res",
        description="Measure text to regions: which one, several, or none.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", type=Path, required=True, metavar="DIR", help="a bundle that can score texts")
    add(
        "--data",
        type=Path,
        action="append",
        required=True,
        metavar="FOLDER",
        help="may be repeated",
    )
    add("--candidates", nargs="+", choices=SOURCES, default=["given"], help="columns [given]")
    add("--segmenter", choices=SEGMENTERS, default=SEGMENTERS[0], help="[%(default)s]")
    add("--segmenter-folder", type=Path, metavar="DIR", help="where its files are")
    add("--texts", choices=get_args(Texts), default="short", help="which wording [short]")
    add("--half", choices=get_args(Half), default="all", help="half of the pictures [all]")
    add(
        "--held-out-every",
        type=parse_positive,
        default=HELD_OUT_EVERY,
        metavar="N",
        help="[%(default)s]",
    )
    add("--limit", type=parse_positive, metavar="N", help="at most N pictures of each folder")
    add(
        "--bag", action="store_true", help="also the bag-of-words score alone, and the gain over it"
    )
    add("--statements", type=Path, nargs="+", default=[], metavar="FILE", help="hard statements")
    add("--seed", type=int, default=0, help="random seed of the intervals [0]")
    add("--threads", type=parse_positive, help="of the bundle and the segmenter")
    add("-o", "--out", type=Path, metavar="DIR", help="folder for res.json and answers.jsonl")
    add("--json", action="store_true", help="the last line is one JSON object")
    return parser
