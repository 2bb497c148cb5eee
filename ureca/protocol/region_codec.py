"""Regions on the wire and in prompt files, and the checks that make them safe to use.

A region is validated against the size of its image: masks must have that size and run lengths that
add up, boxes must overlap the image, points must be inside.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ureca.datatypes import MAX_CLICKS, MAX_TEXT_CHARS, Level, RegionSeed, Rle, TextPrompt
from ureca.errors import RegionError
from ureca.protocol import rle
from ureca.protocol.events import WireRle
from ureca.protocol.messagepack import check_id
from ureca.region_values import MAX_CORNERS, MAX_POLYGONS

Label = Annotated[str, Meta(max_length=256)]
Clicks = Annotated[tuple[tuple[float, float], ...], Meta(max_length=MAX_CLICKS)]
Corners = Annotated[tuple[tuple[float, float], ...], Meta(min_length=3, max_length=MAX_CORNERS)]
Polygons = Annotated[tuple[Corners, ...], Meta(max_length=MAX_POLYGONS)]


def to_wire_rle(mask: Rle) -> WireRle:
    """A mask for an event or a header."""
    return WireRle(size=mask.size, counts=mask.counts)


def from_wire_rle(mask: WireRle) -> Rle:
    """A mask from an event or a header; it is checked when it is decoded."""
    return Rle(size=mask.size, counts=mask.counts)


class WireRegion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A region as it is encoded: exactly one of `mask`, `box` (xyxy px), `point` (xy px) and
    `polygons` (xy px).

    With a point or box, `more_points` lie on the region, too, and `not_points` do not.
    """

    rid: str | None = None
    mask: WireRle | None = None
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    label: Label | None = None
    score: float | None = None
    parent: str | None = None
    more_points: Clicks = ()
    not_points: Clicks = ()
    polygons: Polygons = ()

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
            more_points=seed.more_points_xy_px,
            not_points=seed.not_points_xy_px,
            polygons=seed.polygons_xy_px,
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
            more_points_xy_px=self.more_points,
            not_points_xy_px=self.not_points,
            polygons_xy_px=self.polygons,
        )
        _check_inside(seed, width_px, height_px)
        return seed


class WirePrompt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request to start a track at a point, a box or a thing that a text is true of.

    `standing` and `level` belong to a text.
    """

    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    text: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] | None = None
    label: Label | None = None
    standing: bool = False
    level: Level | None = None
    more_points: Clicks = ()
    not_points: Clicks = ()

    @classmethod
    def of(cls, prompt: RegionSeed | TextPrompt) -> WirePrompt:
        """The encoded form. Raises `RegionError` for a mask: send that as a region."""
        if isinstance(prompt, TextPrompt):
            return cls(
                text=prompt.text,
                label=prompt.label,
                standing=prompt.standing,
                level=prompt.level,
            )
        if prompt.mask is not None or prompt.polygons_xy_px:
            raise RegionError("a prompt is a point, a box or a text; send a mask as a region")
        return cls(
            box=prompt.box_xyxy_px,
            point=prompt.point_xy_px,
            label=prompt.label,
            more_points=prompt.more_points_xy_px,
            not_points=prompt.not_points_xy_px,
        )

    def text_prompt(self) -> TextPrompt | None:
        """The text to find; None for a point or a box. Raises `RegionError` for both at once."""
        if self.text is None:
            if self.standing or self.level is not None:
                raise RegionError("'standing' and 'level' belong to a text")
            return None
        clicks = self.more_points or self.not_points
        if self.box is not None or self.point is not None or clicks:
            raise RegionError("a prompt has exactly one of box, point, text; got several")
        return TextPrompt(self.text, self.label, self.standing, self.level)


def _check_mask(mask: Rle, width_px: int, height_px: int) -> None:
    if mask.size != (height_px, width_px):
        raise RegionError(
            f"the mask is {mask.size[0]}x{mask.size[1]} (height x width), its picture is "
            f"{height_px}x{width_px}; resize the mask to the picture"
        )
    if not int(rle.check(mask)[1::2].sum()):
        raise RegionError("the mask is empty: a region needs at least one pixel")


def _check_inside(seed: RegionSeed, width_px: int, height_px: int) -> None:
    """Boxes and polygons must overlap the picture, points must lie on it."""
    if seed.polygons_xy_px:
        xs, ys = zip(
            *(corner for polygon in seed.polygons_xy_px for corner in polygon), strict=True
        )
        if max(xs) <= 0 or max(ys) <= 0 or min(xs) >= width_px or min(ys) >= height_px:
            raise RegionError(f"the polygons lie outside {width_px}x{height_px}")
    if seed.box_xyxy_px:
        x0, y0, x1, y1 = seed.box_xyxy_px
        if x1 <= 0 or y1 <= 0 or x0 >= width_px or y0 >= height_px:
            raise RegionError(f"the box {seed.box_xyxy_px} lies outside {width_px}x{height_px}")
    first = () if seed.point_xy_px is None else (seed.point_xy_px,)
    for x, y in (*first, *seed.more_points_xy_px, *seed.not_points_xy_px):
        if not (0 <= x < width_px and 0 <= y < height_px):
            raise RegionError(f"the point ({x:g}, {y:g}) lies outside {width_px}x{height_px}")
