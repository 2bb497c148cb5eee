"""Regions as detectors and data sets give them, converted to `RegionSeed`s.

Taken are `RegionSeed`, COCO annotations and run lengths, arrays of masks or boxes, and objects
with the fields of `supervision.Detections` or of a result of `ultralytics`; these libraries are
not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.datatypes import RegionSeed
from ureca.errors import RegionError
from ureca.region_values import to_array, to_box, to_name, to_numbers

RegionLike = RegionSeed | Mapping[str, Any] | npt.NDArray[Any] | Sequence[Any]
"""What `seed_of` takes."""

_SHAPES = ("segmentation", "mask", "polygons", "polygon", "box", "bbox", "point")
_EXPECTED = (
    "expected a RegionSeed, a mask [H, W], a box x0, y0, x1, y1, or a mapping with one of "
    + ", ".join(_SHAPES)
)


@dataclass(frozen=True, slots=True)
class NormalizedRegion:
    """A region whose frame is not known yet, in fractions 0..1 of its width and height: x0, y0,
    x1, y1 of a box (`is_box`), or the corners of a polygon. Raises `RegionError`.
    """

    corners_xy_norm: tuple[tuple[float, float], ...]
    is_box: bool
    label: str | None = None

    def __post_init__(self) -> None:
        numbers = [number for corner in self.corners_xy_norm for number in corner]
        if len(numbers) < (4 if self.is_box else 6) or not all(-0.01 <= n <= 1.01 for n in numbers):
            raise RegionError(f"expected fractions 0..1 of width and height, got {numbers[:8]}")

    def seed(self, width_px: int, height_px: int) -> RegionSeed:
        """The region on a picture of this size. Raises `RegionError` if it is less than a pixel."""
        corners = tuple((x * width_px, y * height_px) for x, y in self.corners_xy_norm)
        if self.is_box:
            return RegionSeed(box_xyxy_px=(*corners[0], *corners[1]), label=self.label)
        return RegionSeed(polygons_xy_px=(corners,), label=self.label)


def seeds_of(regions: Any, width_px: int, height_px: int) -> tuple[RegionSeed, ...]:
    """The regions of a picture of this size.

    `regions` is an iterable of what `seed_of` takes; masks bool [N, H, W]; boxes [N, 4], maybe with
    score and class behind (xyxy, px); or the detections of a library. Raises `RegionError`.
    """
    if isinstance(regions, tuple) and all(isinstance(one, RegionSeed) for one in regions):
        return regions
    if hasattr(regions, "xyxy") and hasattr(regions, "class_id"):
        return _of_detections(regions)
    if hasattr(regions, "boxes") and hasattr(regions.boxes, "xyxy"):
        return _of_results(regions)
    if isinstance(regions, np.ndarray) or hasattr(regions, "detach"):
        return _of_array(to_array(regions), width_px, height_px)
    if isinstance(regions, RegionSeed | Mapping | str | bytes) or not isinstance(regions, Iterable):
        raise RegionError(f"regions are several: give a list, got {type(regions).__name__}")
    return tuple(seed_of(one) for one in regions)


def seed_of(region: Any) -> RegionSeed:
    """One region. Raises `RegionError` for what is none."""
    if isinstance(region, RegionSeed):
        return region
    if isinstance(region, Mapping):
        return _of_mapping(region)
    if isinstance(region, str | bytes | int | float) or region is None:
        raise RegionError(f"{_EXPECTED}; got {region!r:.80}")
    array = to_array(region)
    if array.size == 4 and array.dtype.kind in "iuf" and (array.ndim == 1 or 1 in array.shape):
        return RegionSeed(box_xyxy_px=to_box(array))
    return RegionSeed(mask=region)


def _of_mapping(region: Mapping[str, Any]) -> RegionSeed:
    if "counts" in region:
        return RegionSeed(mask=region)  # type: ignore[arg-type]  # it is converted
    given = [key for key in _SHAPES if _has(region, key)]
    if not given:
        raise RegionError(f"{_EXPECTED}; got {sorted(map(str, region))[:12]}")
    label = next(
        (region[key] for key in ("label", "category_name", "category_id") if key in region), None
    )
    shared = {
        "rid": region.get("rid", region.get("track_id")),
        "label": to_name(label, "label"),
        "score": region.get("score"),
        "parent": region.get("parent"),
    }
    return RegionSeed(**_shape(given[0], region[given[0]]), **shared)


def _has(region: Mapping[str, Any], key: str) -> bool:
    value = region.get(key)
    return value is not None and not (isinstance(value, list | tuple) and not value)


def _shape(key: str, value: Any) -> dict[str, Any]:
    if key == "segmentation":
        key = "mask" if isinstance(value, Mapping) else "polygons"
    if key == "bbox":
        x, y, width, height = to_numbers(value, 4, "a COCO bbox is x, y, width, height in pixels")
        return {"box_xyxy_px": (x, y, x + width, y + height)}
    name = {"box": "box_xyxy_px", "point": "point_xy_px", "mask": "mask"}
    return {name.get(key, "polygons_xy_px"): value}


def _of_array(array: Any, width_px: int, height_px: int) -> tuple[RegionSeed, ...]:
    if array.ndim == 3 and array.shape[1:] == (height_px, width_px):
        return tuple(RegionSeed(mask=one) for one in array)
    if array.ndim == 2 and array.shape == (height_px, width_px):
        return (RegionSeed(mask=array),)
    if array.ndim == 2 and 4 <= array.shape[1] <= 7 and array.dtype.kind in "iuf":
        return tuple(_of_row(row) for row in array)
    if array.ndim == 1 and array.size == 4:
        return (RegionSeed(box_xyxy_px=to_box(array)),)
    if not array.size:
        return ()
    raise RegionError(
        f"expected masks [N, {height_px}, {width_px}] or boxes [N, 4], got {list(array.shape)}"
    )


def _of_row(row: Any) -> RegionSeed:
    """xyxy, then score and class, as YOLO prints them."""
    score = float(row[4]) if len(row) > 5 else None
    label = str(int(row[5])) if len(row) > 5 else None
    return RegionSeed(box_xyxy_px=to_box(row[:4]), score=score, label=label)


def _of_detections(found: Any) -> tuple[RegionSeed, ...]:
    """`supervision.Detections`: masks where there are any, else boxes."""
    data = getattr(found, "data", None) or {}
    names = data.get("class_name", found.class_id)
    masks = getattr(found, "mask", None)
    return _listed(
        found.xyxy,
        masks,
        names,
        getattr(found, "confidence", None),
        getattr(found, "tracker_id", None),
    )


def _of_results(found: Any) -> tuple[RegionSeed, ...]:
    """A result of ultralytics: outlines where there are any, else boxes."""
    boxes, masks = found.boxes, getattr(found, "masks", None)
    names = getattr(found, "names", {}) or {}
    classes = [int(one) for one in to_array(boxes.cls).reshape(-1)]
    labels = [names[one] if one in names else str(one) for one in classes]
    ids = getattr(boxes, "id", None)
    rids = None if ids is None else [int(one) for one in to_array(ids).reshape(-1)]
    seeds = _listed(boxes.xyxy, None, labels, boxes.conf, rids)
    if masks is None:
        return seeds
    return tuple(
        RegionSeed(polygons_xy_px=outline, rid=seed.rid, label=seed.label, score=seed.score)
        for seed, outline in zip(seeds, masks.xy, strict=True)
        if len(outline) >= 3
    )


def _listed(boxes: Any, masks: Any, labels: Any, scores: Any, rids: Any) -> tuple[RegionSeed, ...]:
    boxes = to_array(boxes).reshape(-1, 4)

    def one(values: Any, place: int) -> Any:
        return None if values is None else to_array(values)[place]

    return tuple(
        RegionSeed(
            rid=to_name(_plain(one(rids, place)), "rid"),
            label=to_name(_plain(one(labels, place)), "label"),
            score=one(scores, place),
            **({"box_xyxy_px": box} if masks is None else {"mask": to_array(masks)[place]}),
        )
        for place, box in enumerate(boxes)
    )


def _plain(value: Any) -> Any:
    """A number of numpy as Python's; whole floats as whole numbers."""
    found = value.item() if hasattr(value, "item") else value
    return int(found) if isinstance(found, float) and found.is_integer() else found
