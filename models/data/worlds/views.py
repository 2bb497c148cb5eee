"""What a rendered view shows: visible items, region masks and their records."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ureca.models.data.worlds import captions
from ureca.models.data.worlds.captions import Sighting
from ureca.models.data.worlds.render import Camera, Ids
from ureca.models.data.worlds.world import World

MIN_PIXELS: Final = 120
"""Regions with fewer visible pixels are left out."""
MAX_REGIONS: Final = 24
SOURCE: Final = "ureca-worlds"
LICENSE: Final = "Apache-2.0"

_MIN_SHOWN: Final = 0.22
"""Least visible share of an item's outline; below it the name is a guess."""

_MAX_PART_SHARE: Final = 0.9
"""A part that covers more of its item's visible pixels cannot be told from the whole."""

Mask = NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class View:
    """One rendered view: id map (h, w) into world.pieces and the camera it was seen with."""

    key: str
    shard: str
    split: str
    ids: Ids
    camera: Camera

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.ids.shape[0], self.ids.shape[1]


@dataclass(frozen=True)
class Region:
    """One region before it becomes a record."""

    name: str
    mask: Mask
    category: str
    type: str
    kind: str
    short: list[str]
    long: list[str]
    unique: bool
    parent: str | None = None


def encode(mask: Mask) -> Row:
    """COCO compressed RLE of a mask (h, w) as {"size": [h, w], "counts": text}."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(edge) for edge in rle["size"]], "counts": rle["counts"].decode("ascii")}


def bounding_box(mask: Mask) -> list[int]:
    """Tight [x, y, w, h] in pixels of a mask that is not empty."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def part_masks(world: World, ids: Ids) -> dict[tuple[int, int], Mask]:
    """Masks (h, w) of all visible parts by (item, part)."""
    present = {int(value) for value in np.unique(ids) if value >= 0}
    masks = {}
    for index in present:
        piece = world.pieces[index]
        if piece.item is not None:
            masks[(piece.item, piece.part)] = ids == index
    return masks


def _outline_area(world: World, item: int, view: View) -> float:
    """Pixels inside the convex outline of an item, hidden and out-of-picture parts included."""
    seen = view.camera.project(world.outline(item), view.size)
    hull = cv2.convexHull(seen[:, :2].astype(np.float32))
    return float(cv2.contourArea(hull))


def _host(world: World, item: int) -> int | None:
    """The item this one was put in or on, if it is still there after settling."""
    host = world.scene.placements[item].host
    if host is None:
        return None
    offset = world.pose(item)[0] - world.pose(host)[0]
    inside = float(np.hypot(offset[0], offset[1])) < world.scene.placements[host].item.inner * 1.1
    return host if inside and offset[2] > 0.0 else None


def _sighting(world: World, item: int, pixels: tuple[int, ...], mask: Mask, view: View) -> Sighting:
    rows, columns = np.nonzero(mask)
    height, width = view.size
    centre = (float(columns.mean()) / width, float(rows.mean()) / height)
    depth = float(view.camera.project(world.pose(item)[0][None], view.size)[0, 2])
    placed = world.scene.placements[item].item
    return Sighting(item, placed, int(mask.sum()), centre, depth, pixels, _host(world, item))


def sightings(world: World, view: View) -> list[Sighting]:
    """All items that show any pixels worth speaking of, also those too hidden to be named."""
    masks = part_masks(world, view.ids)
    found = []
    for index, placement in enumerate(world.scene.placements):
        parts = [masks.get((index, number)) for number in range(len(placement.item.parts))]
        shown = [part for part in parts if part is not None]
        if shown and sum(int(part.sum()) for part in shown) >= MIN_PIXELS // 4:
            pixels = tuple(0 if part is None else int(part.sum()) for part in parts)
            mask = np.logical_or.reduce(shown)
            found.append(_sighting(world, index, pixels, mask, view))
    return found


def nameable(world: World, view: View, sighting: Sighting) -> bool:
    """Whether enough of an item shows for its kind to be plain."""
    if sighting.pixels < MIN_PIXELS or not world.on_table(sighting.index):
        return False
    if sighting.part_pixels[sighting.item.title_part] < MIN_PIXELS // 3:
        return False
    if sighting.item.fixed:
        # A robot arm leaves the picture; its outline says nothing about how much is seen.
        return True
    return sighting.pixels / max(_outline_area(world, sighting.index, view), 1.0) >= _MIN_SHOWN


def _item_region(one: Sighting, others: list[Sighting], mask: Mask) -> Region:
    unique = not captions.look_alikes(one, others)
    kind = one.item.kind
    short, long = captions.short_names(one.item), captions.long_names(one, others)
    return Region(f"o{one.index}", mask, kind, "object", kind, short, long, unique)


def _part_regions(
    one: Sighting, others: list[Sighting], masks: dict[tuple[int, int], Mask]
) -> list[Region]:
    if len(one.item.parts) < 2:
        return []
    unique = not captions.look_alikes(one, others)
    regions = []
    for number, part in enumerate(one.item.parts):
        if MIN_PIXELS <= one.part_pixels[number] <= _MAX_PART_SHARE * one.pixels:
            short = captions.part_names(one.item, part)
            long = captions.long_part_names(part, one, others)
            name, mask = f"o{one.index}p{number}", masks[(one.index, number)]
            region = Region(
                name, mask, part.name, "part", one.item.kind, short, long, unique, f"o{one.index}"
            )
            regions.append(region)
    return regions


def _backdrop_regions(world: World, view: View, seen: list[Sighting]) -> list[Region]:
    regions = []
    table = world.scene.table.phrase
    for index, piece in enumerate(world.pieces):
        mask = view.ids == index
        if piece.item is None and int(mask.sum()) >= MIN_PIXELS * 8:
            backdrop = world.scene.backdrops[piece.part]
            name = backdrop.name
            short = list(dict.fromkeys([backdrop.phrase, f"a {name}"]))
            long = captions.long_backdrop(name, backdrop.phrase, table=table, seen=seen)
            regions.append(Region(name, mask, name, "background", name, short, long, unique=True))
    return regions


def _most_telling(regions: list[Region]) -> list[Region]:
    """At most MAX_REGIONS: items and backdrops first, then the largest parts."""
    whole = [region for region in regions if region.type != "part"]
    parts = sorted((r for r in regions if r.type == "part"), key=lambda r: -int(r.mask.sum()))
    return (whole + parts)[:MAX_REGIONS]


def regions_of(world: World, view: View) -> list[Region]:
    """All regions of a view with their captions."""
    seen = sightings(world, view)
    masks = part_masks(world, view.ids)
    named = [one for one in seen if nameable(world, view, one)]
    regions: list[Region] = []
    for one in named:
        own = [mask for (item, _), mask in masks.items() if item == one.index]
        regions.append(_item_region(one, seen, np.logical_or.reduce(own)))
        regions += _part_regions(one, seen, masks)
    return _most_telling(regions + _backdrop_regions(world, view, named))


_FLAGS: Final = MappingProxyType(
    {"object": (False, False), "part": (True, False), "background": (False, True)}
)


def region_row(region: Region, view: View) -> Row:
    """The record of a region in the project's common format (lengths in pixels)."""
    height, width = view.size
    part, stuff = _FLAGS[region.type]
    row: Row = {
        "region_id": f"{view.key}_{region.name}",
        "image_key": view.key,
        "shard": view.shard,
        "split": view.split,
        "source": SOURCE,
        "license": LICENSE,
        "width": width,
        "height": height,
        "bbox": bounding_box(region.mask),
        "rle": encode(region.mask),
        "mask_source": "gt:worlds",
        "area_frac": round(float(region.mask.mean()), 5),
        "category": region.category,
        "types": [region.type],
        "part": part,
        "stuff": stuff,
        "group": False,
        "expressions": region.short,
        "expressions_long": region.long,
        "expr_source": "template",
        "unique_in_image": region.unique,
        "kind": region.kind,
    }
    if region.parent is not None:
        row["parent"] = f"{view.key}_{region.parent}"
    return row
