"""Which things of those that a segmenter finds by itself are worth following and captioning.

Class and zone decide, then room: the largest and surest first. What a client asks for never passes
through here. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from ureca.datatypes import Mask
from ureca.node.segmentation.automatic_masks import AutomaticMask
from ureca.node.segmenter_config import Point, SegmenterConfig, ZoneConfig

_IN_ZONE = 0.5
_FINE = 4


def choose_worth_following(
    things: Sequence[AutomaticMask], stream: str, config: SegmenterConfig, *, most: int
) -> tuple[list[AutomaticMask], Counter[str]]:
    """At most `most` things of `stream`, and how many were left out, by the setting that says so.

    They are ordered by how sure they are times the fourth root of the share of the picture that
    they cover. (With the square root, fragments of walls and floors come before the things.)
    """
    left_out: Counter[str] = Counter()
    kept = []
    zones = tuple(zone for zone in config.zones if zone.stream in ("", stream))
    for thing in things:
        reason = _name_reason(thing, zones, config)
        if reason is None:
            kept.append(thing)
        else:
            left_out[reason] += 1
    kept.sort(key=lambda thing: thing.sureness * thing.share**0.25, reverse=True)
    if len(kept) > most:
        left_out["max_regions"] = len(kept) - most
    return kept[:most], left_out


def _name_reason(
    thing: AutomaticMask, zones: tuple[ZoneConfig, ...], config: SegmenterConfig
) -> str | None:
    label = thing.prediction.label
    is_wanted = not config.include_classes or label in config.include_classes
    if not is_wanted or label in config.exclude_classes:
        return "classes"
    for mode in ("include", "exclude"):
        here = tuple(zone.polygon_xy for zone in zones if zone.mode == mode)
        if here and _is_inside(thing.cells, here) != (mode == "include"):
            return "zones"
    return None


def _is_inside(cells: Mask, polygons: tuple[tuple[Point, ...], ...]) -> bool:
    """Whether at least half of a mask is in one of the polygons, or in several together."""
    height, width = cells.shape
    inside = np.count_nonzero(cells & _draw(polygons, height, width))
    return bool(inside >= _IN_ZONE * np.count_nonzero(cells))


@lru_cache(maxsize=32)
def _draw(polygons: tuple[tuple[Point, ...], ...], height: int, width: int) -> Mask:
    """Bool [height, width]: the cells of which polygons, with corners in shares of the sides, cover
    more than half.
    """
    fine = np.zeros((height * _FINE, width * _FINE), np.float32)  # fillPoly draws its border, too
    for polygon in polygons:
        corners = np.array(polygon) * (fine.shape[1], fine.shape[0]) - 0.5
        cv2.fillPoly(fine, [corners.round().astype(np.int32)], 1.0)
    covered = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(covered > 0.5, np.bool_)
