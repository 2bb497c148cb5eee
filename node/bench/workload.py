"""The frames and regions that are sent: a short cycle, encoded before the measurement starts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import msgspec
import numpy as np

from ureca.datatypes import Image
from ureca.errors import SourceError
from ureca.node.bench.run_config import SYNTHETIC, RunPlan
from ureca.node.sources.video_readers import open_clip
from ureca.protocol import rle
from ureca.protocol.wire import WireRegion, to_wire_rle

_CYCLE = 60
_MAX_PX = 1 << 24
_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class WorkloadImage:
    """One picture, encoded, and its regions, one per place."""

    pixels: bytes
    width_px: int
    height_px: int
    regions: tuple[WireRegion, ...]


def shots(plan: RunPlan) -> list[WorkloadImage]:
    """The cycle of a plan. Raises `SourceError` for a clip that cannot be played."""
    if plan.source == SYNTHETIC:
        return [_synthetic(plan, index) for index in range(_CYCLE)]
    clip = open_clip(Path(plan.source), fps=0.0, max_px=_MAX_PX)
    images = [image for _, image in islice(clip.shots(), _CYCLE) if isinstance(image, np.ndarray)]
    if not images:
        raise SourceError(f"{plan.source} has no readable image")
    there = [_of_clip(plan, image) for image in images]
    return there + there[-2:0:-1]  # and back: the cycle has no jump


def named(shot: WorkloadImage, plan: RunPlan, at_s: float) -> tuple[WireRegion, ...]:
    """The regions of a shot under the names that they have at this time."""
    return tuple(
        msgspec.structs.replace(region, rid=plan.rid(slot, at_s))
        for slot, region in enumerate(shot.regions)
    )


def _of_clip(plan: RunPlan, image: Image) -> WorkloadImage:
    height, width = image.shape[:2]
    boxes = _grid(plan.regions, width, height)
    return WorkloadImage(
        _encoded(image, plan), width, height, tuple(WireRegion(box=box) for box in boxes)
    )


def _synthetic(plan: RunPlan, index: int) -> WorkloadImage:
    """Coloured ellipses that swing around their places over a textured ground; exact masks."""
    width, height = plan.size_px
    draw = np.random.default_rng(0)
    image = _ground(draw, width, height)
    owner = np.zeros((height, width), np.uint16)
    for slot, (x0, y0, x1, y1) in enumerate(_grid(plan.regions, width, height)):
        phase = 2 * np.pi * (index / _CYCLE + draw.random())
        swing = 0.35 * (x1 - x0), 0.35 * (y1 - y0)
        centre = (
            round((x0 + x1) / 2 + swing[0] * np.cos(phase)),
            round((y0 + y1) / 2 + swing[1] * np.sin(phase)),
        )
        axes = (max(3, round((x1 - x0) * 0.35)), max(3, round((y1 - y0) * 0.35)))
        colour = [int(value) for value in draw.integers(0, 256, 3)]
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1)
        cv2.ellipse(owner, centre, axes, 0, 0, 360, [slot + 1], -1)
    regions = tuple(_region(owner == slot + 1) for slot in range(plan.regions))
    return WorkloadImage(_encoded(image, plan), width, height, regions)


def _region(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> WireRegion:
    if not mask.any():  # covered by a neighbour: a region needs a pixel
        mask = mask.copy()
        mask[0, 0] = True
    return WireRegion(mask=to_wire_rle(rle.encode(mask)))


def _ground(draw: np.random.Generator, width: int, height: int) -> Image:
    coarse = draw.integers(70, 150, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.uint8)


def _grid(count: int, width: int, height: int) -> list[tuple[float, float, float, float]]:
    """`count` boxes, each in the middle of a cell of an even grid."""
    columns = max(1, int(np.ceil(np.sqrt(count * width / height))))
    rows = max(1, -(-count // columns))
    cell_w, cell_h = width / columns, height / rows
    return [
        (
            (number % columns + 0.15) * cell_w,
            (number // columns + 0.15) * cell_h,
            (number % columns + 0.85) * cell_w,
            (number // columns + 0.85) * cell_h,
        )
        for number in range(count)
    ]


def _encoded(image: Image, plan: RunPlan) -> bytes:
    if plan.enc == "rgb8":
        return image.tobytes()
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if plan.enc == "jpeg" else []
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(f".{plan.enc}", bgr, options)
    assert done  # a u8 picture can always be encoded
    return data.tobytes()
