"""Records to pictures with masks, by photograph: what is trained on and what is held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ureca.errors import ConfigError
from ureca.models.data.photographs import find_held_out_keys
from ureca.models.data.regions import ImageStore, RegionRecord, read_regions
from ureca.models.training.masks.config import MaskSource, MaskTrainConfig

PART, THING, WHOLE, FREE = 0, 1, 2, -1
_NO_MASKS = ("box", "full_image", "mixed")


@dataclass(frozen=True, slots=True)
class MaskSample:
    """One mask: COCO run lengths at the picture's size, which kernel of a point it trains (`FREE`:
    the best one), and how much it counts.
    """

    counts: str
    slot: int
    weight: float


@dataclass(frozen=True, slots=True)
class MaskedPicture:
    """One picture and its masks of one source."""

    image_key: str
    source: int
    size: tuple[int, int]
    masks: tuple[MaskSample, ...]


def read_pictures(config: MaskTrainConfig) -> tuple[list[MaskedPicture], list[MaskedPicture]]:
    """Pictures to train on and held-out ones. Raises `ConfigError` when a source has no masks."""
    held = find_held_out_keys(_list_roots(config), every=config.held_out_every)
    seen: list[MaskedPicture] = []
    kept_out: list[MaskedPicture] = []
    records = {path: list(read_regions(Path(path))) for path in {s.regions for s in config.data}}
    for index, source in enumerate(config.data):
        pictures = _group_records(index, source, records[source.regions])
        if not pictures:
            raise ConfigError(f"{source.regions}: no records with masks that `data` asks for")
        for picture in pictures:
            (kept_out if picture.image_key in held else seen).append(picture)
    return seen, kept_out


def open_images(config: MaskTrainConfig) -> ImageStore:
    """The pixels of all sources."""
    return ImageStore(root / "images" for root in _list_roots(config))


def _list_roots(config: MaskTrainConfig) -> list[Path]:
    return list(dict.fromkeys(Path(source.images) for source in config.data))


def _group_records(
    index: int, source: MaskSource, records: Sequence[RegionRecord]
) -> list[MaskedPicture]:
    by_key: dict[str, list[RegionRecord]] = {}
    for record in records:
        if is_wanted(record, source):
            by_key.setdefault(record.image_key, []).append(record)
    return [
        MaskedPicture(
            key, index, (rows[0].height, rows[0].width), tuple(_make_samples(rows, source))
        )
        for key, rows in sorted(by_key.items())
    ]


def is_wanted(record: RegionRecord, source: MaskSource) -> bool:
    """Whether a source asks for this record."""
    return (
        record.for_training
        and not record.mask_source.startswith(_NO_MASKS)
        and (not source.shards or record.shard.startswith(source.shards))
        and (not source.makers or record.mask_source.startswith(source.makers))
    )


def _make_samples(rows: Sequence[RegionRecord], source: MaskSource) -> Iterator[MaskSample]:
    for row in rows:
        yield MaskSample(row.counts, get_slot(row, source), row.mask_score or 1.0)


def get_slot(record: RegionRecord, source: MaskSource) -> int:
    """The kernel that a record trains."""
    if source.all_free:
        return FREE
    if record.part:
        return PART
    if record.stuff or record.group:
        return WHOLE
    return THING if source.things_told else FREE
