"""Regions of other programs as prompts: COCO annotations, and the label files of ultralytics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ureca.datatypes import RegionSeed
from ureca.errors import RegionError
from ureca.node.decoding.picture_files import natural_key
from ureca.region_inputs import NormalizedRegion, seed_of

COCO_KEYS = frozenset(
    {"segmentation", "bbox", "polygon", "polygons", "category_id", "category_name", "track_id"}
)
_IGNORED = frozenset({"id", "image_id", "area", "iscrowd"})
_OWN = ("frame", "rid", "mask", "box", "point", "text", "label", "score", "parent")
_FIELDS = ", ".join((*_OWN, *sorted(COCO_KEYS)))

Placed = tuple[int, RegionSeed | NormalizedRegion]
"""The frame, and the region that begins on it."""


def is_foreign(entry: object) -> bool:
    """Whether an entry has fields of COCO, or a mask of uncompressed run lengths."""
    if not isinstance(entry, Mapping):
        return False
    mask = entry.get("mask")
    is_runs = isinstance(mask, Mapping) and not isinstance(mask.get("counts"), str)
    return is_runs or not COCO_KEYS.isdisjoint(entry)


def read_foreign(entry: Mapping[str, Any]) -> RegionSeed:
    """The region of such an entry. Raises `RegionError` for fields that no entry has."""
    unknown = sorted(entry.keys() - {*_OWN, *COCO_KEYS, *_IGNORED})
    if unknown:
        raise RegionError(f"unknown {unknown[:5]}; an entry has {_FIELDS}")
    return seed_of({key: value for key, value in entry.items() if key not in _IGNORED})


def name_fields() -> str:
    """The fields of an entry, for people."""
    return f"an entry has {_FIELDS}"


def read_coco(content: Mapping[str, Any]) -> Iterator[Placed]:
    """The annotations of a COCO file. Its images are the frames, in the order of their names.

    Raises `RegionError` that names the annotation.
    """
    frames = _frames_of(content.get("images") or [])
    names = {
        one.get("id"): one.get("name")
        for one in content.get("categories") or []
        if isinstance(one, Mapping)
    }
    annotations = content["annotations"]
    if not isinstance(annotations, Sequence):
        raise RegionError("expected 'annotations' to be a list")
    for place, one in enumerate(annotations):
        yield _of_annotation(one, frames, names, f"annotation {place}")


def _of_annotation(
    one: Any, frames: Mapping[Any, int], names: Mapping[Any, Any], where: str
) -> Placed:
    if not isinstance(one, Mapping):
        raise RegionError(f"{where}: expected an object, got {one!r:.40}")
    known = {key: one[key] for key in ("segmentation", "bbox", "track_id") if key in one}
    label = one.get("category_name", names.get(one.get("category_id")))
    try:
        return frames.get(one.get("image_id"), 0), seed_of({**known, "label": label})
    except RegionError as error:
        raise RegionError(f"{where}: {error}") from error


def _frames_of(images: Any) -> dict[Any, int]:
    if not isinstance(images, list) or not all(isinstance(one, Mapping) for one in images):
        raise RegionError("expected 'images' to be a list of objects")
    ordered = sorted(images, key=lambda one: natural_key(str(one.get("file_name", one.get("id")))))
    return {one.get("id"): frame for frame, one in enumerate(ordered)}


def read_labels(text: str) -> Iterator[Placed]:
    """The lines of a label file of ultralytics: class and x, y, width, height of a box around its
    centre, or class and the corners of a polygon, in fractions of the image.

    Raises `RegionError` that names the line.
    """
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            label, *numbers = words[0], *map(float, words[1:])
            yield 0, _of_numbers(str(label), [float(one) for one in numbers])
        except (ValueError, RegionError) as error:
            raise RegionError(f"line {number}: {error}") from error


def _of_numbers(label: str, numbers: Sequence[float]) -> NormalizedRegion:
    if len(numbers) in (4, 5):  # the fifth is a score
        x, y, width, height = numbers[:4]
        corners = (
            (x - width / 2, y - height / 2),
            (x + width / 2, y + height / 2),
        )
        return NormalizedRegion(corners, is_box=True, label=label)
    if len(numbers) < 6 or len(numbers) % 2:
        raise RegionError("expected a class and x, y, width, height, or at least 3 corners x, y")
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    return NormalizedRegion(pairs, is_box=False, label=label)
