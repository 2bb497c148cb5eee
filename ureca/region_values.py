"""Converts masks, boxes, points and ids as detectors, data sets and numpy give them to the plain
values of `RegionSeed`. Everything else is a `RegionError` that says what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ureca.errors import RegionError

if TYPE_CHECKING:
    from ureca.datatypes import Rle

MAX_POLYGONS = 64
MAX_CORNERS = 1 << 14
"""Of all polygons of a region together."""

Point = tuple[float, float]
Polygon = tuple[Point, ...]
_HALF = 128


def to_array(value: Any) -> npt.NDArray[Any]:  # whatever numpy takes, tensors too
    """`value` as an array; tensors come to the host first. Raises `RegionError`."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise RegionError(f"expected an array of numbers, got {_name(value)}: {error}") from error


def to_name(value: Any, what: str) -> str | None:
    """A text, or a whole number as text: ids of trackers and classes are numbers."""
    if value is None or type(value) is str:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, np.ndarray) and value.size == 1:
        return to_name(value.item(), what)
    raise RegionError(f"{what} is a text or a whole number, got {value!r:.80} ({_name(value)})")


def to_score(value: Any) -> float | None:
    """A number."""
    if value is None or type(value) is float:
        return value
    return to_numbers(value, 1, "score is a number")[0]


def to_numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    """`count` plain numbers from a sequence, an array or a tensor of any shape with so many."""
    if type(value) is tuple and len(value) == count and all(type(n) is float for n in value):
        return value
    array = to_array(value)
    if array.size != count or array.dtype.kind not in "iuf":
        raise RegionError(f"{what}, got {value!r:.120}")
    return tuple(map(float, array.reshape(-1)))


def to_box(value: Any) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels. Raises `RegionError` for fractions of the picture."""
    x0, y0, x1, y1 = to_numbers(value, 4, "a box is x0, y0, x1, y1 in pixels")
    sides = x1 - x0, y1 - y0
    if 0 < min(sides) < 1 or (min(sides) > 0 and min(x0, y0) >= 0 and max(x1, y1) <= 1):
        raise RegionError(
            f"a box of less than one pixel, or of fractions: {(x0, y0, x1, y1)}; pixels are "
            "expected: multiply x by the picture's width and y by its height"
        )
    return x0, y0, x1, y1


def to_point(value: Any) -> Point:
    """x, y in pixels. Raises `RegionError` for fractions of the picture."""
    x, y = to_numbers(value, 2, "a point is x, y in pixels")
    if min(x, y) >= 0 and max(x, y) <= 1 and not (x.is_integer() and y.is_integer()):
        raise RegionError(
            f"the point ({x:g}, {y:g}) is of fractions of the picture; pixels are expected: "
            "multiply x by its width and y by its height"
        )
    return x, y


def to_points(value: Any) -> tuple[Point, ...]:
    """Any number of points."""
    if type(value) is tuple and not value:
        return value
    return tuple(to_point(one) for one in value)


def to_polygons(value: Any) -> tuple[Polygon, ...]:
    """Polygons of at least 3 corners, each [N, 2] or x, y, x, y, …; one alone, or several."""
    if type(value) is tuple and (not value or _are_plain(value)):
        return value
    listed = [value] if _is_flat(value) or _is_pairs(value) else list(value)
    if not 1 <= len(listed) <= MAX_POLYGONS:
        raise RegionError(f"expected 1 to {MAX_POLYGONS} polygons, got {len(listed)}")
    polygons = tuple(_to_polygon(one) for one in listed)
    if sum(map(len, polygons)) > MAX_CORNERS:
        raise RegionError(f"the polygons have more than {MAX_CORNERS} corners; simplify them")
    return polygons


def to_rle(value: Any) -> Rle:
    """A mask: bool [H, W], 0 and one other value, COCO run lengths (compressed or not), a picture.

    Soft masks 0..255 are cut at 128, floats 0..1 at .5. Raises `RegionError` for several ids in
    one mask, and for polygons.
    """
    from ureca.datatypes import Rle

    if isinstance(value, Rle):
        return value
    if isinstance(value, Mapping):
        return _of_coco(value)
    if isinstance(value, str | bytes):
        raise RegionError(f"a mask needs its size: {{'size': [h, w], 'counts': {value!r:.20}}}")
    from ureca.protocol.rle import encode

    return encode(_to_bits(value))


def _of_coco(value: Mapping[str, Any]) -> Rle:
    from ureca.datatypes import Rle
    from ureca.protocol.rle import encode_runs

    if not {"size", "counts"} <= value.keys():
        raise RegionError(f"a mask is {{'size': [h, w], 'counts': …}}, got {sorted(value)[:8]}")
    height, width = to_numbers(value["size"], 2, "the size of a mask is height, width")
    size, counts = (int(height), int(width)), value["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    if isinstance(counts, str):
        return Rle(size, counts)
    return encode_runs(size, to_array(counts))


def _to_bits(value: Any) -> npt.NDArray[np.bool_]:
    array = to_array(value)
    if array.ndim == 3:
        array = _only_channel(array)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "biuf":
        raise RegionError(
            f"a mask is an array [height, width] of bool or 0 and 255, got {_name(value)} of "
            f"{array.dtype} {list(array.shape)}; polygons go into polygons_xy_px"
        )
    if array.dtype.kind == "b":
        return np.ascontiguousarray(array)
    if array.dtype.kind == "f":
        return _soft_bits(array)
    found = np.unique(array)
    ids = found[found != 0]
    if len(ids) <= 1:
        return np.asarray(array != 0)
    if int(found[0]) >= 0 and int(found[-1]) == 255:
        return np.asarray(array >= _HALF)
    raise RegionError(
        f"the mask has the values {ids[:5].tolist()}{'…' if len(ids) > 5 else ''}: give one region "
        "for each, mask == value"
    )


def _soft_bits(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):  # also for what is no number
        raise RegionError(f"a mask of floats is 0..1 or 0..255, got {low:g}..{high:g}")
    return np.asarray(array > (0.5 if high <= 1 else _HALF - 0.5))


def _only_channel(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[1, H, W] and [H, W, 1] as [H, W]; a picture of equal channels, or its alpha if it varies."""
    if array.shape[0] == 1:
        return np.asarray(array[0])
    if array.shape[2] in (2, 4) and array[:, :, -1].min() != array[:, :, -1].max():
        return np.asarray(array[:, :, -1] > 0)
    colours = array[:, :, : 1 if array.shape[2] == 2 else 3]
    is_grey = array.shape[2] <= 4 and bool((colours == colours[:, :, :1]).all())
    return np.asarray(colours[:, :, 0] if is_grey else array)


def _to_polygon(value: Any) -> Polygon:
    array = to_array(value)
    if array.dtype.kind not in "iuf" or array.size < 6 or array.size % 2:
        raise RegionError(f"a polygon has at least 3 corners x, y in pixels, got {value!r:.80}")
    if array.ndim > 1 and array.shape[-1] != 2:
        raise RegionError(f"a polygon is [N, 2] or x, y, x, y, …, got {list(array.shape)}")
    corners = array.reshape(-1, 2).astype(float)
    if not np.isfinite(corners).all():
        raise RegionError("the corners of a polygon must be finite")
    if np.ptp(corners, axis=0).min() < 1 and corners.min() >= 0 and corners.max() <= 1:
        raise RegionError("a polygon of fractions of the picture; pixels are expected")
    return tuple((float(x), float(y)) for x, y in corners)


def _are_plain(value: tuple[Any, ...]) -> bool:
    return len(value) <= MAX_POLYGONS and all(
        type(polygon) is tuple
        and 3 <= len(polygon) <= MAX_CORNERS
        and all(
            type(corner) is tuple and len(corner) == 2 and all(type(n) is float for n in corner)
            for corner in polygon
        )
        for polygon in value
    )


def _is_flat(value: Any) -> bool:
    """x, y, x, y, … of one polygon."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and all(
        isinstance(n, int | float | np.number) for n in value
    )


def _is_pairs(value: Any) -> bool:
    """[N, 2] of one polygon."""
    if isinstance(value, np.ndarray):
        return value.ndim == 2 and value.shape[1] == 2
    return isinstance(value, Sequence) and all(
        isinstance(one, Sequence | np.ndarray) and len(one) == 2 for one in value
    )


def _name(value: Any) -> str:
    return type(value).__name__
