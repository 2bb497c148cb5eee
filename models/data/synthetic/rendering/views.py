"""Describes a rendered view: visible items, region masks and their records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ureca.models.data.synthetic.language.captions import Writer
from ureca.models.data.synthetic.language.facts import Sighting, make_backdrop_node, make_nodes
from ureca.models.data.synthetic.language.judge import judge_caption
from ureca.models.data.synthetic.language.truth import NodeTruth, ViewTruth
from ureca.models.data.synthetic.rendering.render import Ids, SceneCamera
from ureca.models.data.synthetic.scenes.world import World

MIN_BACKDROP_PIXELS: Final = 1200
MAX_REGIONS: Final = 28
SOURCE: Final = "ureca-worlds"
LICENSE: Final = "Apache-2.0"

_LEAST_PIXELS: Final = 30
"""Items with fewer visible pixels are as good as hidden."""

Mask = NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class RenderedView:
    """One rendered view: id map (h, w) into world.pieces and the camera it was seen with."""

    key: str
    shard: str
    split: str
    ids: Ids
    camera: SceneCamera

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.ids.shape[0], self.ids.shape[1]


@dataclass(frozen=True)
class RenderedRegion:
    """One region before it becomes a record: its node, mask (h, w) and captions."""

    node: NodeTruth
    mask: Mask
    short: str
    long: str | None
    unique: bool


def encode_mask(mask: Mask) -> Row:
    """COCO compressed RLE of a mask (h, w) as {"size": [h, w], "counts": text}."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(edge) for edge in rle["size"]], "counts": rle["counts"].decode("ascii")}


def compute_bounding_box(mask: Mask) -> list[int]:
    """Tight [x, y, w, h] in pixels of a mask that is not empty."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def make_part_masks(world: World, ids: Ids) -> dict[tuple[int, int], Mask]:
    """Masks (h, w) of all visible parts by (item, part)."""
    present = {int(value) for value in np.unique(ids) if value >= 0}
    masks = {}
    for index in present:
        piece = world.pieces[index]
        if piece.item is not None:
            masks[(piece.item, piece.part)] = ids == index
    return masks


def _measure_outline_area(world: World, item: int, view: RenderedView) -> float:
    """Pixels inside the convex outline of an item, hidden and out-of-picture parts included."""
    seen = view.camera.project(world.outline(item), view.size)
    hull = cv2.convexHull(seen[:, :2].astype(np.float32))
    return float(cv2.contourArea(hull))


def _find_host(world: World, item: int) -> int | None:
    """The item this one was put in or on, if it is still there after settling."""
    host = world.scene.placements[item].host
    if host is None:
        return None
    base, guest = world.scene.placements[host].item, world.scene.placements[item].item
    offset = world.pose(item)[0] - world.pose(host)[0]
    away = float(np.hypot(offset[0], offset[1]))
    if guest.kind == base.kind:
        return host if away < base.radius * 0.5 and offset[2] > 0.6 * base.height else None
    return host if away < base.inner * 1.1 and offset[2] > 0.0 else None


def _make_sighting(
    world: World, item: int, pixels: tuple[int, ...], mask: Mask, view: RenderedView
) -> Sighting:
    height, width = view.size
    x, y = _compute_centre(mask)
    position, rotation = world.pose(item)
    shown = int(mask.sum()) / max(_measure_outline_area(world, item, view), 1.0)
    return Sighting(
        index=item,
        item=world.scene.placements[item].item,
        pixels=int(mask.sum()),
        centre=(x / width, y / height),
        depth=round(float(view.camera.project(position[None], view.size)[0, 2]), 4),
        part_pixels=pixels,
        shown=shown,
        host=_find_host(world, item),
        up=float(rotation[2, 2]),
        on_table=world.on_table(item),
    )


def _compute_centre(mask: Mask) -> tuple[float, float]:
    """Mean x and y in pixels of a mask that is not empty."""
    rows, columns = np.nonzero(mask)
    return round(float(columns.mean()), 1), round(float(rows.mean()), 1)


def make_sightings(
    world: World, masks: dict[tuple[int, int], Mask], view: RenderedView
) -> list[Sighting]:
    """Return all items with enough visible pixels, including those too hidden to be named."""
    found = []
    for index, placement in enumerate(world.scene.placements):
        parts = [masks.get((index, number)) for number in range(len(placement.item.parts))]
        shown = [part for part in parts if part is not None]
        pixels = tuple(0 if part is None else int(part.sum()) for part in parts)
        if sum(pixels) >= _LEAST_PIXELS:
            mask = np.logical_or.reduce(shown)
            found.append(_make_sighting(world, index, pixels, mask, view))
    return found


def _make_backdrop_masks(world: World, view: RenderedView) -> dict[str, Mask]:
    """Masks of table, floor and wall as far as they are worth a region."""
    masks = {}
    for index, piece in enumerate(world.pieces):
        mask = view.ids == index
        if piece.item is None and int(mask.sum()) >= MIN_BACKDROP_PIXELS:
            masks[world.scene.backdrops[piece.part].name] = mask
    return masks


def _make_backdrop_nodes(
    world: World, masks: dict[str, Mask], view: RenderedView
) -> list[NodeTruth]:
    height, width = view.size
    nodes = []
    for backdrop in world.scene.backdrops:
        if backdrop.name in masks:
            mask = masks[backdrop.name]
            x, y = _compute_centre(mask)
            nodes.append(make_backdrop_node(backdrop, int(mask.sum()), (x / width, y / height)))
    return nodes


def _limit_regions(nodes: dict[str, NodeTruth]) -> dict[str, NodeTruth]:
    """Return at most MAX_REGIONS annotated nodes: of the parts only the largest."""
    whole = sum(node.annotated for node in nodes.values() if node.type != "part")
    parts = [node for node in nodes.values() if node.type == "part" and node.annotated]
    ordered = sorted(parts, key=lambda node: -node.pixels)
    cut = {node.node for node in ordered[max(0, MAX_REGIONS - whole) :]}
    return {
        name: replace(node, annotated=False) if name in cut else node
        for name, node in nodes.items()
    }


def _make_node_masks(
    nodes: dict[str, NodeTruth], parts: dict[tuple[int, int], Mask], backdrops: dict[str, Mask]
) -> dict[str, Mask]:
    """The mask of every node; items and groups are unions, so the tree nests exactly."""
    masks = dict(backdrops)
    for (item, part), mask in parts.items():
        masks[f"o{item}p{part}"] = mask
        name = f"o{item}"
        masks[name] = masks[name] | mask if name in masks else mask
    for node in nodes.values():
        if node.type == "group":
            masks[node.node] = np.logical_or.reduce([masks[name] for name in node.members])
    return masks


def describe_view(world: World, view: RenderedView) -> tuple[ViewTruth, list[RenderedRegion]]:
    """Return the truth of a view and its regions with their captions."""
    parts, backdrops = make_part_masks(world, view.ids), _make_backdrop_masks(world, view)
    seen = make_sightings(world, parts, view)
    nodes = _limit_regions(make_nodes(seen, _make_backdrop_nodes(world, backdrops, view)))
    truth = ViewTruth(view.key, view.split, nodes)
    writer, masks = Writer(truth, seen), _make_node_masks(nodes, parts, backdrops)
    regions = []
    for node in nodes.values():
        if node.annotated:
            short = writer.short(node)
            unique = judge_caption(truth, node.node, short).unique
            regions.append(RenderedRegion(node, masks[node.node], short, writer.long(node), unique))
    return truth, regions


def make_region_row(region: RenderedRegion, view: RenderedView) -> Row:
    """Return the record of a region in the project's common format (lengths in pixels)."""
    height, width = view.size
    node = region.node
    row: Row = {
        "region_id": f"{view.key}_{node.node}",
        "image_key": view.key,
        "shard": view.shard,
        "split": view.split,
        "source": SOURCE,
        "license": LICENSE,
        "width": width,
        "height": height,
        "bbox": compute_bounding_box(region.mask),
        "rle": encode_mask(region.mask),
        "mask_source": "gt:worlds",
        "area_frac": round(float(region.mask.mean()), 5),
        "category": node.part or node.kind,
        "types": [node.type],
        "part": node.type == "part",
        "stuff": node.type == "background",
        "group": node.type == "group",
        "expressions": [region.short],
        "expressions_long": [region.long] if region.long else [],
        "expr_source": "template",
        "unique_in_image": region.unique,
        "kind": node.kind,
        "held_back": node.held_back,
    }
    if node.owner:
        row["parent"] = f"{view.key}_{node.owner}"
    return row
