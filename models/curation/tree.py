"""Builds the mask tree: which mask is a part of which (arXiv 2504.05305, section 3.1).

The paper uses IoU. A part's IoU with its object is always small, so containment is used here: the
share of the smaller mask inside the larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np

from ureca.datatypes import Mask
from ureca.errors import RegionError
from ureca.models.curation.records import (
    CuratedPicture,
    CuratedRegion,
    reject_orphans,
    reject_region,
)


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """Which masks take part. Shares are of the picture's area."""

    containment: float = 0.8
    min_share: float = 0.007
    max_share: float = 0.7
    """Of main things; parts are within them."""
    min_depth: int = 0
    """Levels of parts below a main thing; 3 (four levels with itself) is what URECA takes of
    SA-1B, where masks are nested deeply."""

    def __post_init__(self) -> None:
        if not 0 < self.containment <= 1:
            raise ValueError(f"containment must be above 0 and at most 1, got {self.containment}")
        if not 0 <= self.min_share <= self.max_share <= 1:
            raise ValueError(
                f"expected 0 <= min_share <= max_share <= 1, got {self.min_share}, {self.max_share}"
            )


def build_tree(picture: CuratedPicture, config: TreeConfig) -> CuratedPicture:
    """Return the image with parents, depths and shares, without unsuitable masks, parents first.

    Masks that cannot be decoded or are empty are left out as `bad_mask`. Masks of equal area keep
    the order in which they came.
    """
    masks = {region.region_id: _decode(picture, region) for region in picture.regions}
    good = [r for r in picture.regions if (m := masks[r.region_id]) is not None and m.any()]
    order = sorted(good, key=lambda region: -int(masks[region.region_id].sum()))  # type: ignore[union-attr]  # decoded
    shapes = [masks[region.region_id] for region in order]
    parents = find_parents([mask for mask in shapes if mask is not None], config.containment)
    regions = _add_tree_fields(order, shapes, parents)
    bad = [reject_region(region, "bad_mask") for region in picture.regions if region not in good]
    return select_suitable(msgspec.structs.replace(picture, regions=(*regions, *bad)), config)


def find_parents(masks: Sequence[Mask], containment: float) -> list[int]:
    """Return, for masks in the order of falling area, the index of each one's parent; -1 for
    none.

    The parent is the smallest earlier mask that holds at least `containment` of it: the deepest
    node of the tree built so far, for masks that are nested.
    """
    parents: list[int] = []
    for index, mask in enumerate(masks):
        pixels = np.flatnonzero(mask)
        holders = (
            other
            for other in range(index - 1, -1, -1)
            if np.count_nonzero(masks[other].flat[pixels]) >= containment * len(pixels)
        )
        parents.append(next(holders, -1))
    return parents


def select_suitable(picture: CuratedPicture, config: TreeConfig) -> CuratedPicture:
    """Keep main objects of the right size and depth, parts that are large enough, and no
    orphans.
    """
    changes = {}
    for region in picture.kept:
        if region.share < config.min_share:
            changes[region.region_id] = reject_region(region, "too_small")
        elif not region.parent and region.share > config.max_share:
            changes[region.region_id] = reject_region(region, "too_large")
        elif not region.parent and region.depth < config.min_depth:
            changes[region.region_id] = reject_region(region, "shallow")
    return reject_orphans(picture.replace_regions(changes))


def _add_tree_fields(
    order: Sequence[CuratedRegion], masks: Sequence[Mask | None], parents: Sequence[int]
) -> list[CuratedRegion]:
    depths = [0] * len(order)
    for index in range(len(order) - 1, -1, -1):  # the smallest first
        if parents[index] >= 0:
            depths[parents[index]] = max(depths[parents[index]], depths[index] + 1)
    described = []
    for region, mask, parent, depth in zip(order, masks, parents, depths, strict=True):
        assert mask is not None
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        described.append(
            msgspec.structs.replace(
                region,
                parent=order[parent].region_id if parent >= 0 else "",
                depth=depth,
                share=float(mask.mean()),
                box_xywh_px=(x, y, width, height),
            )
        )
    return described


def _decode(picture: CuratedPicture, region: CuratedRegion) -> Mask | None:
    try:
        return picture.decode_mask(region)
    except RegionError:
        return None
