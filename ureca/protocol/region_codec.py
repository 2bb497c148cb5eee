"""Regions on the wire and in prompt files, and the checks that make them safe to use.

A region is validated against the size of its image: masks must have that size and run lengths that
add up, boxes must overlap the image, points must be inside.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ureca.datatypes import RegionSeed, Rle
from ureca.errors import RegionError
from ureca.protocol import rle
from ureca.protocol.events import WireRle
from ureca.protocol.messagepack import check_id

Label = Annotated[str, Meta(max_length=256)]


def to_wire_rle(mask: Rle) -> WireRle:
    """A mask for an event or a header."""
    return WireRle(size=mask.size, counts=mask.counts)


def from_wire_rle(mask: WireRle) -> Rle:
    """A mask from an event or a header; it is checked when it is decoded."""
    return Rle(size=mask.size, counts=mask.counts)


class WireRegion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A region as it is encoded: exactly one of `mask`, `box` (xyxy px) and `point` (xy px)."""

    rid: str | None = None
    mask: WireRle | None = None
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    label: Label | None = None
    score: float | None = None
    parent: str | None = None

    @classmethod
    def of(cls, seed: RegionSeed) -> WireRegion:
        """The encoded form of a seed."""
        mask = None if seed.mask is None else to_wire_rle(seed.mask)
        return cls(
            rid=seed.rid,
            mask=mask,
            box=seed.box_xyxy_px,
            point=seed.point_xy_px,
            label=seed.label,
            score=seed.score,
            parent=seed.parent,
        )

    def seed(self, width_px: int, height_px: int) -> RegionSeed:
        """The checked seed for a picture of this size.

        Raises `RegionError` for a mask of another size or a broken code, and for coordinates
        outside; `WireError` for ids that are not ids.
        """
        for what, value in (("region", self.rid), ("parent", self.parent)):
            if value is not None:
                check_id(value, what)
        mask = None if self.mask is None else from_wire_rle(self.mask)
        if mask is not None:
            _check_mask(mask, width_px, height_px)
        seed = RegionSeed(
            rid=self.rid,
            mask=mask,
            box_xyxy_px=self.box,
            point_xy_px=self.point,
            label=self.label,
            score=self.score,
            parent=self.parent,
        )
        _check_inside(seed, width_px, height_px)
        return seed


class WirePrompt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request to start a track at a point, a box or a described thing."""

    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    text: Annotated[str, Meta(max_length=1024)] | None = None
    label: Label | None = None


def _check_mask(mask: Rle, width_px: int, height_px: int) -> None:
    if mask.size != (height_px, width_px):
        raise RegionError(
            f"the mask is {mask.size[0]}x{mask.size[1]} (height x width), its picture is "
            f"{height_px}x{width_px}; resize the mask to the picture"
        )
    if not int(rle.check(mask)[1::2].sum()):
        raise RegionError("the mask is empty: a region needs at least one pixel")


def _check_inside(seed: RegionSeed, width_px: int, height_px: int) -> None:
    """A box must overlap the picture, a point must lie on it."""
    if seed.box_xyxy_px:
        x0, y0, x1, y1 = seed.box_xyxy_px
        if x1 <= 0 or y1 <= 0 or x0 >= width_px or y0 >= height_px:
            raise RegionError(f"the box {seed.box_xyxy_px} lies outside {width_px}x{height_px}")
    if seed.point_xy_px:
        x, y = seed.point_xy_px
        if not (0 <= x < width_px and 0 <= y < height_px):
            raise RegionError(f"the point {seed.point_xy_px} lies outside {width_px}x{height_px}")
