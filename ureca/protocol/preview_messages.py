"""A preview for people: the request `picture` and its result."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ureca.protocol.events import WireRle
from ureca.protocol.frames import Side


class PictureArgs(Struct, frozen=True, kw_only=True):
    """Arguments of `picture`: the stream's next frame whose number is not `after`."""

    stream: str
    after: int | None = None
    max_width_px: Annotated[int, Meta(ge=64, le=1920)] = 640


class PictureRegion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One region on a picture. `box` is in pixels of the whole frame (xyxy), `mask` of the small
    picture's size; without a mask the region is lost, and the box the last good one.
    """

    rid: str
    state: str
    box: tuple[int, int, int, int]
    label: str | None = None
    mask: WireRle | None = None


class Picture(Struct, frozen=True, kw_only=True):
    """The result of `picture`: frame `seq` as a JPEG of `w` x `h` px; the frame itself is `width` x
    `height` px and was captured at `captured_ns` on `clk`.
    """

    stream: str
    seq: int
    captured_ns: int
    clk: str
    width: Side
    height: Side
    w: Side
    h: Side
    jpeg: bytes
    regions: tuple[PictureRegion, ...] = ()
