"""Regions with mined attributes, and the split that every figure is of.

Pictures that the hash holds out are never fitted on. They are halved by their hash, too: one half
calibrates, the other one is reported. Views of one rendered scene are on one side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ureca.errors import SourceError
from ureca.models.data.attributes import Mined, mine_attributes
from ureca.models.data.images import read_images
from ureca.models.data.regions import (
    HELD_OUT_EVERY,
    RegionRecord,
    hash_image_key,
    read_regions,
)

Half = Literal["train", "calibrate", "report"]
_FEW_EVERY: Final = 5
"""Small sets hold out one picture in so many, or no attribute could be judged on them."""
_FEW_PICTURES: Final = 5_000
_WORLDS: Final = "ureca-worlds"


@dataclass(frozen=True, slots=True)
class AttributeCase:
    """One region, the words that are true of it by attribute, and the half of its picture."""

    record: RegionRecord
    mined: Mined
    half: Half

    @property
    def kind(self) -> str:
        """`worlds` for renderings, else `photographs`."""
        return "worlds" if self.record.source == _WORLDS else "photographs"


def read_cases(root: Path) -> list[AttributeCase]:
    """Every region of a data folder of which an attribute is known. Raises `SourceError`."""
    files = [*sorted(root.glob("regions-*.jsonl")), *sorted(root.glob("regions-*.jsonl.gz"))]
    files = [path for path in files if "pseudo" not in path.name]
    if not files:
        raise SourceError(f"{root} holds no regions-*.jsonl or .jsonl.gz: is it a data folder?")
    captions = {
        image.image_key: image.captions
        for path in sorted(root.glob("images-*.jsonl*"))
        for image in read_images(path)
    }
    records = [(record, path) for path in files for record in read_regions(path)]
    few = len({record.image_key for record, _ in records}) < _FEW_PICTURES
    found = []
    for record, path in records:
        mined = mine_attributes(record, captions.get(record.image_key, ()))
        if mined:
            trained = path.name.startswith("regions-train")
            found.append(AttributeCase(record, mined, find_half(record, few=few, trained=trained)))
    return found


def find_half(record: RegionRecord, *, few: bool, trained: bool = True) -> Half:
    """The half of a record's picture, or of its rendered scene. `trained`: its file is one that is
    fitted on, else all of it is held out.
    """
    key = record.image_key
    if record.source == _WORLDS:
        key = key.rpartition("-")[0]
    if trained and hash_image_key(key) % (_FEW_EVERY if few else HELD_OUT_EVERY):
        return "train"
    return "calibrate" if hash_image_key(f"half {key}") % 2 else "report"


def group_cases(cases: Sequence[AttributeCase]) -> dict[str, list[AttributeCase]]:
    """The cases by picture, held-out pictures first, then those of which most is known."""
    found: dict[str, list[AttributeCase]] = defaultdict(list)
    for case in cases:
        found[case.record.image_key].append(case)
    known = {key: sum(len(case.mined) for case in group) for key, group in found.items()}
    order = sorted(found, key=lambda key: (found[key][0].half == "train", -known[key], key))
    return {key: found[key] for key in order}
