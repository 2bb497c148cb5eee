"""Held-out pictures with true masks, and what is known of each mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ureca.datatypes import Mask, Rle
from ureca.errors import ConfigError
from ureca.models.data.photographs import find_held_out_keys
from ureca.models.data.regions import RegionRecord, hash_image_key, read_regions
from ureca.models.evaluation.panoptic.cases import PanopticCase, make_panoptic_case
from ureca.protocol import rle

TRUE_MASKS = ("gt:", "union of gt")
_EVERY_PIXEL = ("coco-panoptic", "alexgkendall/SegNet", "ureca-worlds", "ccp")
"""Sources whose regions say (nearly) every pixel: panoptic quality makes sense there."""


@dataclass(frozen=True, slots=True)
class MaskCase:
    """One held-out picture and its true masks."""

    image_key: str
    size: tuple[int, int]
    records: tuple[RegionRecord, ...]

    def mask(self, record: RegionRecord) -> Mask:
        """The true mask bool [H, W]."""
        return rle.decode(Rle(size=self.size, counts=record.counts))

    def panoptic_truth(self) -> PanopticCase | None:
        """What every pixel is; None where the source does not say it. Garments stand for
        themselves.
        """
        if not self.records[0].source.startswith(_EVERY_PIXEL):
            return None
        found = make_panoptic_case(self.records, parts=self.records[0].source == "ccp")
        return found if found.segments else None


def get_kind(record: RegionRecord) -> str:
    """`part`, `thing` or `whole`: the kernel that should bring it."""
    return "part" if record.part else "whole" if record.stuff or record.group else "thing"


def read_cases(roots: Sequence[Path], *, every: int, limit: int | None) -> list[MaskCase]:
    """Pictures with true masks, in the order of their hashes, `limit` of each source.

    Of training pictures only those are taken whose photograph or series is held out; a folder may
    have other splits (worlds' dev), which are taken whole. Raises `ConfigError` when none is left.
    """
    held = find_held_out_keys(roots, every=every)
    found: dict[str, list[RegionRecord]] = {}
    for record in _read_records(roots):
        if record.mask_source.startswith(TRUE_MASKS) and (
            record.image_key in held or not record.for_training
        ):
            found.setdefault(record.image_key, []).append(record)
    cases = [
        MaskCase(key, (rows[0].height, rows[0].width), tuple(rows)) for key, rows in found.items()
    ]
    cases.sort(key=lambda case: hash_image_key(case.image_key))
    counts: dict[str, int] = {}
    chosen = []
    for case in cases:
        source = case.records[0].source
        counts[source] = counts.get(source, 0) + 1
        if limit is None or counts[source] <= limit:
            chosen.append(case)
    if not chosen:
        raise ConfigError(
            f"no held-out pictures with true masks under {', '.join(map(str, roots))}: only "
            f"regions whose mask_source begins with {' or '.join(TRUE_MASKS)} count"
        )
    return chosen


def _read_records(roots: Sequence[Path]) -> Iterator[RegionRecord]:
    for root in roots:
        paths = sorted(root.glob("regions-*.jsonl*"))
        if not paths:
            raise ConfigError(f"{root} has no regions-*.jsonl[.gz]; expected a data folder")
        for path in paths:
            if "pseudo" not in path.name:  # no true masks, and no shards, in there
                yield from read_regions(path)
