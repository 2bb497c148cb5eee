"""The data of the pipeline: one image with its regions, and the result of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import msgspec

from ureca.datatypes import Mask, Rle
from ureca.protocol import rle

Reason = Literal[
    "too_small",
    "too_large",
    "shallow",
    "orphan",
    "bad_mask",
    "bad_answer",
    "not_verified",
    "crowd",
]
"""Why a region has no caption in the export. `shallow`: a main thing with too few levels of parts;
`orphan`: a part of a thing that was left out; `crowd`: a segment of many things at once."""
REASONS: tuple[Reason, ...] = get_args(Reason)


class CuratedRegion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mask. `counts`: COCO compressed RLE at the picture's size; `share`: of its area, 0..1."""

    region_id: str
    counts: str
    box_xywh_px: tuple[int, int, int, int] = (0, 0, 0, 0)
    share: float = 0.0
    parent: str = ""
    """`region_id` of the smallest thing that holds it; empty for a main thing."""
    depth: int = 0
    """Levels of parts below it."""
    short: str = ""
    long: str = ""
    refined: str = ""
    similar: tuple[str, ...] = ()
    left_out: Reason | None = None
    category: str = ""
    """The class that a panoptic annotation gives it."""
    stuff: bool = False

    @property
    def caption(self) -> str:
        """The words to export: the refined ones where there are some."""
        return self.refined or self.long or self.short


class CuratedPicture(msgspec.Struct, frozen=True, kw_only=True):
    """An image's regions, parents before their parts."""

    image_key: str
    height: int
    width: int
    regions: tuple[CuratedRegion, ...]
    annotator: str = ""
    """Whose words these are."""

    @property
    def kept(self) -> tuple[CuratedRegion, ...]:
        """Regions that are still in."""
        return tuple(region for region in self.regions if region.left_out is None)

    def list_children(self, region_id: str) -> tuple[CuratedRegion, ...]:
        """Return the kept parts of a region; of `""`, the kept main objects."""
        return tuple(region for region in self.kept if region.parent == region_id)

    def decode_mask(self, region: CuratedRegion) -> Mask:
        """Return the mask bool [H, W]. Raises `RegionError` for an invalid code."""
        return rle.decode(Rle(size=(self.height, self.width), counts=region.counts))

    def replace_regions(self, changes: Mapping[str, CuratedRegion]) -> CuratedPicture:
        """Return a copy with some regions replaced, by `region_id`."""
        regions = tuple(changes.get(region.region_id, region) for region in self.regions)
        return msgspec.structs.replace(self, regions=regions)

    def list_ancestors(self, region: CuratedRegion) -> Iterator[str]:
        """Return the `region_id`s from its parent up."""
        by_id = {each.region_id: each for each in self.regions}
        while region.parent:
            yield region.parent
            region = by_id[region.parent]


def reject_region(region: CuratedRegion, reason: Reason) -> CuratedRegion:
    """Return the region with a reason; the first reason stays."""
    return msgspec.structs.replace(region, left_out=region.left_out or reason)


def reject_orphans(picture: CuratedPicture) -> CuratedPicture:
    """Reject the parts of rejected objects, because their descriptions depend on them."""
    gone = {region.region_id for region in picture.regions if region.left_out is not None}
    changes = {}
    for region in picture.regions:  # parents come first
        if region.parent in gone and region.left_out is None:
            gone.add(region.region_id)
            changes[region.region_id] = reject_region(region, "orphan")
    return picture.replace_regions(changes)
