"""Regions on the command line: `--box`, `--point` and `--mask`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ureca.datatypes import RegionSeed
from ureca.errors import RegionError, SourceError
from ureca.node.decoding.bounded_files import read_file
from ureca.node.decoding.mask_decoder import decode_masks
from ureca.protocol import rle

_log = logging.getLogger(__name__)
BUNDLE_HELP = "the captioner, or a YAML file about a server (docs/server.md) [the shipped one]"
_KINDS = (
    (
        "mask",
        "FILE.png",
        "a mask of the image's size: pixels above 0, or a region per index or value",
    ),
    (
        "box",
        "X0,Y0,X1,Y1",
        "a box in pixels, shrunk to the object's outline (GrabCut) if that succeeds",
    ),
    ("point", "X,Y", "a point in pixels; similar colours around it are taken"),
)


def add_region_options(parser: argparse.ArgumentParser, *, of: str) -> None:
    """Add options that collect `(kind, text)` in `options.region`, in their order."""
    for kind, metavar, text in _KINDS:
        parser.add_argument(
            f"--{kind}",
            dest="region",
            type=partial(_tagged, kind),
            action="append",
            default=[],
            metavar=metavar,
            help=f"{text}{of}; repeatable",
        )


def _tagged(kind: str, value: str) -> tuple[str, str]:
    return kind, value


def seeds_of(kind: str, text: str) -> list[RegionSeed]:
    """The regions that an option names; a mask file may hold several.

    Raises `RegionError`, or `SourceError` for a mask file.
    """
    return _seeds_of_mask(Path(text)) if kind == "mask" else [_seed_of(kind, text)]


def named_seeds(regions: Sequence[tuple[str, str]]) -> list[tuple[str, RegionSeed]]:
    """The regions that options name, with what people call them."""
    return [
        (f"{kind} {text}" + (f" ({seed.label})" if seed.label else ""), seed)
        for kind, text in regions
        for seed in seeds_of(kind, text)
    ]


def _seed_of(kind: str, text: str) -> RegionSeed:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != (4 if kind == "box" else 2):
        wanted = "x0,y0,x1,y1" if kind == "box" else "x,y"
        raise RegionError(f"--{kind} expects {wanted} in pixels, got {text!r}")
    if kind == "box":
        return RegionSeed(box_xyxy_px=(numbers[0], numbers[1], numbers[2], numbers[3]))
    return RegionSeed(point_xy_px=(numbers[0], numbers[1]))


def _seeds_of_mask(path: Path) -> list[RegionSeed]:
    try:
        masks = decode_masks(read_file(path))
    except SourceError as error:
        raise SourceError(f"the mask {path}: {error}") from error
    for mask in masks.values():
        if mask.all():
            _log.warning("the mask %s is the whole image; is its shape in another channel?", path)
    labels = {value: f"mask {value}" if len(masks) > 1 else None for value in masks}
    return [RegionSeed(mask=rle.encode(masks[one]), label=labels[one]) for one in masks]


def add_person_words(parser: argparse.ArgumentParser) -> None:
    """Add `--person-words`; not given: None."""
    parser.add_argument(
        "--person-words",
        choices=("neutral", "full"),
        help="neutral: a person, people [default]; full: also sex and age, which are often wrong",
    )
