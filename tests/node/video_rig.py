"""Clips of every kind for tests: each picture shows its number, which damage cannot imitate."""

from __future__ import annotations

import fractions
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np

from ureca.clock import ManualClock
from ureca.datatypes import Frame, Image
from ureca.errors import SourceError
from ureca.node.config import NodeConfig, SourceConfig
from ureca.node.counters import NodeCounters
from ureca.node.sources.factory import open_source

WIDTH, HEIGHT = 160, 96
BITS, CELL = 8, 16
"""The number is a row of dark and bright cells, and the same inverted below it."""


def numbered(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> Image:
    """RGB u8 [height, width, 3]: coloured ground, and `number` % 256 in cells at the top left."""
    y, x = np.mgrid[:height, :width]
    ground = np.stack([60 + x * 120 // width, 60 + y * 120 // height, 90 + 0 * x], axis=2)
    image = ground.astype(np.uint8)
    for place in range(BITS):
        value = 230 if number >> place & 1 else 20
        across = slice(8 + place * CELL, 8 + (place + 1) * CELL)
        image[16:32, across] = value
        image[32:48, across] = 250 - value
    return image


def number_of(image: Image) -> int | None:
    """The number of a picture; None when it is no picture of `numbered`."""
    bits = 0
    for place in range(BITS):
        across = slice(8 + place * CELL + 4, 8 + (place + 1) * CELL - 4)
        upper, lower = image[20:28, across].mean(), image[36:44, across].mean()
        if abs(upper - lower) < 80:
            return None
        bits |= int(upper > lower) << place
    return bits


def encode(
    path: Path,
    images: Iterable[Image],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    stamps: Sequence[int] | None = None,
    base: fractions.Fraction = fractions.Fraction(1, 24),
    options: dict[str, str] | None = None,
    rotation: tuple[float, bool] | None = None,
    colour: tuple[int, int] | None = None,
    form: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip; `stamps` are its presentation times in `base` (else 0, 1, 2, …)."""
    listed = list(images)
    with av.open(
        str(path), "w", format=form, container_options=container_options or {}
    ) as container:
        stream = container.add_stream(codec, rate=round(1 / base) if base < 1 else 1)
        stream.height, stream.width = listed[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = base
        stream.options = dict(options or {})
        if colour is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colour
        if rotation is not None:
            stream.set_display_rotation(rotation[0], rotation[1])
        for index, image in enumerate(listed):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            space, span = colour or (None, None)
            frame = frame.reformat(format=pix_fmt, dst_colorspace=space, dst_color_range=span)
            frame.pts = index if stamps is None else stamps[index]
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def clip(path: Path, count: int = 12, **how: object) -> Path:
    """A clip of numbered pictures; see `encode`."""
    return encode(path, [numbered(n) for n in range(count)], **how)  # type: ignore[arg-type]


@dataclass
class Played:
    """What came of a source that was played to its end."""

    frames: list[Frame]
    counters: NodeCounters
    waits_s: list[float] = field(default_factory=list)
    failure: SourceError | None = None

    @property
    def numbers(self) -> list[int | None]:
        return [number_of(frame.image) for frame in self.frames]

    @property
    def times_ms(self) -> list[int]:
        first = self.frames[0].captured_ns
        return [round((frame.captured_ns - first) / 1e6) for frame in self.frames]

    @property
    def damaged(self) -> int:
        return self.counters.balance().frames_dropped.get("decode_error", 0)


def play(uri: Path | str, *, realtime: bool = True, **source: object) -> Played:
    """Play a source to its end on a clock that waits for nothing."""
    clock, counters = ManualClock(5_000_000_000), NodeCounters()
    played = Played([], counters)

    def wait(seconds: float) -> bool:
        played.waits_s.append(seconds)
        clock.advance(ns=round(seconds * 1e9))
        return False

    made = SourceConfig(uri=str(uri), realtime=realtime, **source)  # type: ignore[arg-type]
    config = replace(NodeConfig(), source=made)
    opened = open_source(config, clock=clock, counters=counters, wait=wait)
    try:
        for frame in opened.frames():
            counters.frame_processed()
            played.frames.append(frame)
    except SourceError as error:
        played.failure = error
    assert counters.balance().closed
    return played
