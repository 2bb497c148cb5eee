"""Regions on the command line: `--box`, `--point` and `--mask`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ureca.datatypes import RegionSeed, Rle
from ureca.errors import RegionError, SourceError
from ureca.protocol import rle

_KINDS = (
    ("mask", "FILE.png", "a mask of the picture's size; pixels above 0 belong to the region"),
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


def seed_of(kind: str, text: str) -> RegionSeed:
    """The region that an option names. Raises `RegionError`, or `SourceError` for a mask file."""
    if kind == "mask":
        return RegionSeed(mask=_read_mask(Path(text)))
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


def _read_mask(path: Path) -> Rle:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(f"cannot read the mask {path}: {error.strerror}") from error
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if picture is None:
        raise SourceError(f"{path} is no readable picture; a mask is a PNG of the image's size")
    return rle.encode(np.asarray(picture > 0, np.bool_))
