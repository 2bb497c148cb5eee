"""Records to what training needs of them: words, packed mask tiles and boxes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Style
from ureca.errors import ConfigError
from ureca.models.config import VisionConfig
from ureca.models.data.pack import packed_masks
from ureca.models.data.regions import RegionRecord, read_regions
from ureca.models.data.text_augmentation import class_phrase
from ureca.models.training.config import DataConfig

_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*|,")


@dataclass(frozen=True)
class Region:
    """A record as training needs it; `source` is its place in `TrainConfig.data`."""

    image_key: str
    source: int
    short: tuple[str, ...]
    long: tuple[str, ...]
    mask_bits: npt.NDArray[np.uint8]
    box_norm: npt.NDArray[np.float32]

    def phrases(self, style: Style) -> tuple[Style, tuple[str, ...]]:
        """Its phrases of a style; those of the other style when it has none."""
        if (style == "short" and self.short) or not self.long:
            return "short", self.short
        return "long", self.long


def clean(text: str) -> str:
    """Lower case, words and commas only: what the captioner can learn to say."""
    return " ".join(_WORD.findall(text.lower())).replace(" ,", ",")


def load_records(data: Sequence[DataConfig]) -> list[tuple[int, RegionRecord]]:
    """All records with words, with the index of their source. Raises `ConfigError` when a source
    has none.
    """
    found: list[tuple[int, RegionRecord]] = []
    for index, source in enumerate(data):
        before = len(found)
        files = sorted(Path(source.root).glob("regions-*.jsonl*"))
        found += [(index, r) for f in files for r in read_regions(f) if _wanted(r, source)]
        if len(found) == before:
            raise ConfigError(
                f"data root {source.root!r}: no regions-*.jsonl[.gz] with usable records"
            )
    return found


def _wanted(record: RegionRecord, source: DataConfig) -> bool:
    in_shard = not source.shards or record.shard.startswith(source.shards)
    named = source.class_names and record.category
    return (
        in_shard
        and record.for_training
        and bool(record.short or record.long or (named and class_phrase(named, record.source)))
    )


def build_regions(
    records: Sequence[tuple[int, RegionRecord]], vision: VisionConfig, *, cache: Path
) -> list[Region]:
    """All regions, their masks packed under `cache` once; those with an empty mask are left out."""
    packed = packed_masks([record for _, record in records], vision, cache / "masks")
    rows = zip(records, packed.mask_bits, packed.box_norm, packed.ok, strict=True)
    return [_region(*record, bits, box) for record, bits, box, ok in rows if ok]


def _region(
    source: int,
    record: RegionRecord,
    mask_bits: npt.NDArray[np.uint8],
    box_norm: npt.NDArray[np.float32],
) -> Region:
    short, long = _words(record.short), _words(record.long)
    if not short and not long:
        short = _words([class_phrase(record.category, record.source) or ""])
    return Region(record.image_key, source, short, long, mask_bits, box_norm)


def _words(phrases: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(clean, phrases))))
