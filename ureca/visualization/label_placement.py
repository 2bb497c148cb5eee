"""Where captions go: beside their regions, on the picture, never over one another. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]
Place = tuple[int, int]

_GAP_PX = 3
_FAR, _COVERED = 1.0, 0.5
"""Cost of a pixel between a caption and its region, and of a pixel's side of covering another."""
_HIDES, _ASIDE = 0.5, 0.1
"""Cost of a pixel's side of hiding its own region, and of a pixel between left edges."""
_STAYS = 40.0
"""What staying is worth, so that captions do not jump about in a video."""


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """A caption to place: its region's box, its own (width, height), and where it stood on the
    picture before, as (x, y) from the box's upper left corner.
    """

    box_xyxy_px: Box
    size_px: Place
    before_px: Place | None = None


def place(
    requests: Sequence[LabelRequest], picture: Place, reserved: Sequence[Box] = ()
) -> list[Place | None]:
    """The upper left corner of every caption, None for one without a free place.

    `picture` is width and height in pixels; `reserved` areas stay free. Small regions are first,
    because large ones have more space. A caption keeps its place unless the place became worse.
    """
    found: list[Place | None] = [None] * len(requests)
    taken = list(reserved)
    for index in sorted(range(len(requests)), key=lambda k: _area(requests[k].box_xyxy_px)):
        others = [request.box_xyxy_px for number, request in enumerate(requests) if number != index]
        spot = _best(requests[index], picture, taken, others)
        found[index] = spot
        if spot is not None:
            taken.append(_at(spot, requests[index].size_px))
    return found


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _best(
    request: LabelRequest, picture: Place, taken: Sequence[Box], others: Sequence[Box]
) -> Place | None:
    box, size = request.box_xyxy_px, request.size_px
    if size[0] > picture[0] or size[1] > picture[1]:
        return None
    room = np.array(picture) - size
    spots = np.clip(np.array(list(_spots(request, picture))), 0, room)
    corners = np.concatenate([spots, spots + size], axis=1)
    free = _overlaps(corners, taken, margin_px=_GAP_PX).sum(axis=1) == 0
    if not free.any():
        return None
    covered = np.sqrt(_overlaps(corners, others)).sum(axis=1)
    cost = _FAR * _distances(corners, box) + _COVERED * covered
    if request.before_px is not None:
        cost[0] -= _STAYS
    x, y = spots[np.argmin(np.where(free, cost, np.inf))]
    return int(x), int(y)


def _spots(request: LabelRequest, picture: Place) -> Iterator[Place]:
    """Where it stood; above, below, inside and beside the box; a grid over the whole picture."""
    (x0, y0, x1, y1), (width, height) = request.box_xyxy_px, request.size_px
    if request.before_px is not None:
        yield x0 + request.before_px[0], y0 + request.before_px[1]
    middle = (x0 + x1 - width) // 2
    for x in (x0, middle, x1 - width):
        yield x, y0 - height - _GAP_PX
        yield x, y1 + _GAP_PX
        yield x, y0 + _GAP_PX
        yield x, y1 - height - _GAP_PX
    for y in (y0, (y0 + y1 - height) // 2, y1 - height):
        yield x1 + _GAP_PX, y
        yield x0 - width - _GAP_PX, y
    for y in range(0, picture[1] - height + 1, max(4, height // 2)):
        for x in range(0, picture[0] - width + 1, max(8, width // 4)):
            yield x, y


def _at(spot: Place, size: Place) -> Box:
    return spot[0], spot[1], spot[0] + size[0], spot[1] + size[1]


def _overlaps(
    corners: npt.NDArray[np.int_], boxes: Sequence[Box], margin_px: int = 0
) -> npt.NDArray[np.float64]:
    """Pixels [spots, boxes] that each pair shares."""
    if not boxes:
        return np.zeros((len(corners), 1))
    other = np.array(boxes) + np.array([-margin_px, -margin_px, margin_px, margin_px])
    sides = [
        np.minimum(corners[:, None, axis + 2], other[None, :, axis + 2])
        - np.maximum(corners[:, None, axis], other[None, :, axis])
        for axis in (0, 1)
    ]
    width, height = (np.maximum(side, 0) for side in sides)
    shared: npt.NDArray[np.float64] = (width * height).astype(np.float64)
    return shared


def _distances(corners: npt.NDArray[np.int_], box: Box) -> npt.NDArray[np.float64]:
    """Pixels between each caption and its region, what it hides of it, and a little of the way
    between their left edges: then captions line up with their regions.
    """
    edge = np.array(box)
    gap = np.maximum(edge[None, :2] - corners[:, 2:], corners[:, :2] - edge[None, 2:])
    away = np.sqrt((np.clip(gap, 0, None).astype(np.float64) ** 2).sum(axis=1))
    hidden = np.sqrt(_overlaps(corners, [box])).sum(axis=1)
    aside = np.abs(corners[:, 0] - edge[0])
    total: npt.NDArray[np.float64] = away + _HIDES * hidden + _ASIDE * aside
    return total
