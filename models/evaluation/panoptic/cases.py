"""Pictures whose every pixel somebody annotated, from data folders in the common format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Rle
from ureca.errors import ConfigError
from ureca.models.data.photographs import find_held_out_keys
from ureca.models.data.regions import RegionRecord, hash_image_key, read_regions, read_rows
from ureca.protocol import rle

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrueSegment:
    """One annotated segment: its number in the map, its class, and captions of it (maybe none).

    A crowd is no segment to be found; what is predicted on it does not count.
    """

    number: int
    category: str = ""
    references: tuple[str, ...] = ()
    stuff: bool = False
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class PanopticCase:
    """One picture's truth: ids i64 [H, W], 0 where nobody said, and its segments."""

    image_key: str
    ids: I64
    segments: tuple[TrueSegment, ...]
    source: str = ""


def read_panoptic_cases(
    roots: Sequence[Path],
    *,
    every: int,
    limit: int | None = None,
    held_out: bool = True,
    known: Sequence[Path] = (),
    parts: bool = False,
) -> list[PanopticCase]:
    """The pictures of data folders whose every pixel is annotated (`panoptic: true`, or views with
    their `pieces`), in the order of their hashes, at most `limit` of each folder.

    Of files of training regions only pictures are taken whose photograph or series is held out;
    others are taken whole. With `held_out` false, it is the training pictures that are not held
    out. `known` are folders that may list the same photographs under other keys: a photograph is
    held out if any of its keys is. With `parts`, segments are the parts, and all else is void.
    Raises `ConfigError` when none is left.
    """
    held = find_held_out_keys(known or roots, every=every)
    chosen: list[PanopticCase] = []
    for root in roots:
        wanted = _list_panoptic_keys(root)
        rows: dict[str, list[RegionRecord]] = {}
        for record, is_training in _read_records(root):
            is_held = record.image_key in held or (held_out and not is_training)
            if record.image_key in wanted and is_held == held_out:
                rows.setdefault(record.image_key, []).append(record)
        keys = sorted(rows, key=hash_image_key)
        cases = [make_panoptic_case(rows[key], parts=parts) for key in keys]
        chosen += [case for case in cases if case.segments][:limit]
    if not chosen:
        which = "held-out" if held_out else "training"
        raise ConfigError(
            f"no {which} pictures with every pixel annotated under {', '.join(map(str, roots))}: "
            "only pictures with `panoptic: true` in images-*.jsonl.gz count"
        )
    return chosen


def _list_panoptic_keys(root: Path) -> frozenset[str]:
    paths = sorted(root.glob("images-*.jsonl*"))
    if not paths:
        raise ConfigError(f"{root} has no images-*.jsonl[.gz]; expected a data folder")
    rows = (row for path in paths for row in read_rows(path))
    return frozenset(
        str(row["image_key"]) for row in rows if row.get("panoptic") is True or row.get("pieces")
    )


def _read_records(root: Path) -> Iterator[tuple[RegionRecord, bool]]:
    """Records, and whether they are training data."""
    for path in sorted(root.glob("regions-*.jsonl*")):
        if "pseudo" not in path.name:  # their masks are not true
            is_training = path.name.startswith("regions-train")
            for record in read_regions(path):
                yield record, is_training and record.for_training


def make_panoptic_case(records: Sequence[RegionRecord], *, parts: bool = False) -> PanopticCase:
    """One picture from its regions. Groups stand for nothing of their own, nor do parts (with
    `parts` it is the wholes that do not); smaller segments win over larger ones.
    """
    whole = [record for record in records if not record.group and record.part == parts]
    whole.sort(key=lambda record: -record.box_xywh_px[2] * record.box_xywh_px[3])
    ids = np.zeros((records[0].height, records[0].width), np.int64)
    for number, record in enumerate(whole, 1):
        ids[rle.decode(Rle(size=(record.height, record.width), counts=record.counts))] = number
    there = set(np.unique(ids).tolist())
    segments = [
        TrueSegment(n, record.category, (*record.short, *record.long), record.stuff)
        for n, record in enumerate(whole, 1)
        if n in there
    ]
    return PanopticCase(records[0].image_key, ids, tuple(segments), records[0].source)
