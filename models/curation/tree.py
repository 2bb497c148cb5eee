"""The mask tree: which mask is a part of which (arXiv 2504.05305, section 3.1).

The paper speaks of IoU; a part's IoU with its thing is small by nature, so containment is used:
the share of the smaller mask that lies inside the larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np

from ureca.datatypes import Mask
from ureca.errors import RegionError
from ureca.models.curation.records import CuratedPicture, CuratedRegion, leave_out, orphans_left_out


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


def grown(picture: CuratedPicture, config: TreeConfig) -> CuratedPicture:
    """The picture with parents, depths and shares, the unsuitable left out, parents first.

    Masks that cannot be decoded or are empty are left out as `bad_mask`. Masks of equal area keep
    the order in which they came.
    """
    masks = {region.region_id: _decoded(picture, region) for region in picture.regions}
    good = [r for r in picture.regions if (m := masks[r.region_id]) is not None and m.any()]
    order = sorted(good, key=lambda region: -int(masks[region.region_id].sum()))  # type: ignore[union-attr]  # decoded
    shapes = [masks[region.region_id] for region in order]
    parents = parents_of([mask for mask in shapes if mask is not None], config.containment)
    regions = _described(order, shapes, parents)
    bad = [leave_out(region, "bad_mask") for region in picture.regions if region not in good]
    return suitable(msgspec.structs.replace(picture, regions=(*regions, *bad)), config)


def parents_of(masks: Sequence[Mask], containment: float) -> list[int]:
    """For masks in the order of falling area, the index of each one's parent; -1 for none.

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


def suitable(picture: CuratedPicture, config: TreeConfig) -> CuratedPicture:
    """Main things of the right size and depth, parts that are large enough, and no orphans."""
    changes = {}
    for region in picture.kept:
        if region.share < config.min_share:
            changes[region.region_id] = leave_out(region, "too_small")
        elif not region.parent and region.share > config.max_share:
            changes[region.region_id] = leave_out(region, "too_large")
        elif not region.parent and region.depth < config.min_depth:
            changes[region.region_id] = leave_out(region, "shallow")
    return orphans_left_out(picture.changed(changes))


def _described(
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


def _decoded(picture: CuratedPicture, region: CuratedRegion) -> Mask | None:
    try:
        return picture.mask(region)
    except RegionError:
        return None
