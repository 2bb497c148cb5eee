"""Converts records to training data: normalised texts, packed mask tiles and boxes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Style
from ureca.errors import ConfigError
from ureca.models.config import VisionConfig
from ureca.models.data.pack import load_or_pack_masks
from ureca.models.data.regions import RegionRecord, hash_image_key, read_regions
from ureca.models.data.text_augmentation import make_class_phrase
from ureca.models.training.config import DataConfig

_CHOSEN = ("human", "caption", "image_caption")
"""How `expr_source` begins where a person chose the words for the region or its picture."""
_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*|,")


@dataclass(frozen=True)
class Region:
    """A record in the form that training needs; `source` is its index in `TrainConfig.data`."""

    image_key: str
    source: int
    short: tuple[str, ...]
    long: tuple[str, ...]
    mask_bits: npt.NDArray[np.uint8]
    box_norm: npt.NDArray[np.float32]
    region_id: str = ""
    part: bool = False
    stuff: bool = False
    parent: str = ""
    """Of a part: the `region_id` of its thing, where that is known."""

    def phrases(self, style: Style) -> tuple[Style, tuple[str, ...]]:
        """Return its phrases of a style, or those of the other style if there are none."""
        if (style == "short" and self.short) or not self.long:
            return "short", self.short
        return "long", self.long


def normalise_text(text: str) -> str:
    """Lower-case a text and keep words and commas only, the forms that the captioner learns."""
    return " ".join(_WORD.findall(text.lower())).replace(" ,", ",")


def load_records(data: Sequence[DataConfig]) -> list[tuple[int, RegionRecord]]:
    """Read all records with texts, with the index of their source. A later folder replaces those
    regions of earlier ones that it has, too (better masks of the same regions are folders of their
    own); a folder that is listed twice is read twice.

    Raises `ConfigError` when a source has none.
    """
    found: list[tuple[int, RegionRecord]] = []
    for index, source in enumerate(data):
        files = sorted(Path(source.root).glob("regions-*.jsonl*"))
        chosen = [f for f in files if f.name.startswith(source.files or ("regions-",))]
        records = (r for f in chosen for r in read_regions(f))
        if not source.long_texts:
            records = (replace(r, long=()) for r in records)
        rows = _cap_names([r for r in records if _is_wanted(r, source)], source.name_cap)
        if not rows:
            raise ConfigError(
                f"data root {source.root!r}: no regions-*.jsonl[.gz] with usable records"
            )
        again = {record.region_id for record in rows}
        found = [
            (n, r) for n, r in found if r.region_id not in again or data[n].root == source.root
        ]
        found += [(index, record) for record in rows]
    return found


def _cap_names(rows: list[RegionRecord], cap: int) -> list[RegionRecord]:
    """Leave out regions beyond `cap` of one class name that nobody chose for them."""
    if not cap:
        return rows
    count: Counter[str] = Counter()
    left_out = set()
    for row in sorted(rows, key=lambda r: hash_image_key(r.region_id)):
        if not row.expr_source.startswith(_CHOSEN):
            name = row.short[0] if row.short else row.category
            count[name] += 1
            if count[name] > cap:
                left_out.add(row.region_id)
    return [row for row in rows if row.region_id not in left_out]


def _is_wanted(record: RegionRecord, source: DataConfig) -> bool:
    in_shard = not source.shards or record.shard.startswith(source.shards)
    named = source.class_names and record.category
    return (
        in_shard
        and record.for_training
        and bool(record.short or record.long or (named and make_class_phrase(named, record.source)))
    )


def build_regions(
    records: Sequence[tuple[int, RegionRecord]], vision: VisionConfig, *, cache: Path
) -> list[Region]:
    """Build all regions; their masks are packed under `cache` once. Regions with an empty mask are
    left out.
    """
    packed = load_or_pack_masks([record for _, record in records], vision, cache / "masks")
    rows = zip(records, packed.mask_bits, packed.box_norm, packed.ok, strict=True)
    return [_make_region(*record, bits, box) for record, bits, box, ok in rows if ok]


def _make_region(
    source: int,
    record: RegionRecord,
    mask_bits: npt.NDArray[np.uint8],
    box_norm: npt.NDArray[np.float32],
) -> Region:
    short, long = _normalise_phrases(record.short), _normalise_phrases(record.long)
    if not short and not long:
        short = _normalise_phrases([make_class_phrase(record.category, record.source) or ""])
    return Region(
        record.image_key,
        source,
        short,
        long,
        mask_bits,
        box_norm,
        record.region_id,
        record.part,
        record.stuff,
        record.parent,
    )


def _normalise_phrases(phrases: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(normalise_text, phrases))))
