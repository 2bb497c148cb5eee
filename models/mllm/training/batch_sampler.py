"""Which regions and captions every step learns from: a pure function of (seed, epoch).

Rows are grouped by length within windows, so that a batch holds pictures of alike numbers of tiles
and pads little (URECA's and LLaVA's length grouping).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ureca.datatypes import Image, Mask, Rle, Style
from ureca.errors import ConfigError, SourceError
from ureca.models.data.regions import ImageStore, RegionRecord, read_regions
from ureca.models.data.text_augmentation import class_phrase
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.training.config import MllmDataConfig, MllmTrainConfig
from ureca.models.training.dataset import clean
from ureca.models.training.loop import Plan
from ureca.protocol import rle

_WINDOW = 32
"""Batches among which rows are sorted by length."""
_CHARACTERS_PER_TOKEN = 4
"""For grouping only; the caption's real length is known when it is encoded."""


@dataclass(frozen=True)
class Row:
    """One region to caption, and what to say."""

    record: RegionRecord
    style: Style
    texts: tuple[str, ...]
    tiles: int

    def length(self, tokens_per_tile: int) -> int:
        """Roughly how many tokens it takes: for grouping."""
        said = sum(map(len, self.texts)) // _CHARACTERS_PER_TOKEN
        return self.tiles * tokens_per_tile + said


Group = tuple[Row, ...]
"""Rows of one picture that share its prefix."""


class MllmPlan(Plan[Group]):
    """Epochs of rows."""

    def __init__(
        self,
        records: Sequence[tuple[RegionRecord, float]],
        config: MllmTrainConfig,
        *,
        tiler: ImageTiler,
        tokens_per_tile: int,
    ) -> None:
        self._config, self._per_tile = config, tokens_per_tile
        self._records = [(r, tiler.grid(r.width, r.height).tiles, n) for r, n in records]
        if not records:
            raise ConfigError("the data holds no region with words: give another `data`")

    def epoch(self, epoch: int) -> list[list[Group]]:
        """Batches of one epoch; the last rows that fill no batch wait for another epoch."""
        rng = random.Random(f"{self._config.seed}/{epoch}")
        rows = [self._row(record, tiles, rng) for record, tiles in self._visited(rng)]
        rng.shuffle(rows)
        size = self._config.rows_per_step
        while len(rows) < size:
            rows += rows[: size - len(rows)]
        groups = list(_grouped(rows, self._config.regions_per_picture))
        rng.shuffle(groups)
        batches: list[list[Group]] = []
        for window in _filled(groups, size * _WINDOW):
            ordered = sorted(window, key=lambda g: sum(row.length(self._per_tile) for row in g))
            batches += [b for b in _filled(ordered, size) if sum(map(len, b)) >= size]
        rng.shuffle(batches)
        return batches

    def _visited(self, rng: random.Random) -> Iterator[tuple[RegionRecord, int]]:
        for record, tiles, share in self._records:
            for _ in range(int(share) + (rng.random() < share % 1)):
                yield record, tiles

    def _row(self, record: RegionRecord, tiles: int, rng: random.Random) -> Row:
        long = rng.random() < self._config.long_share
        style: Style = "long" if record.long and (long or not record.short) else "short"
        texts = record.long if style == "long" else record.short
        chosen = rng.sample(texts, min(len(texts), self._config.phrases_per_region))
        return Row(record, style, tuple(chosen), tiles)


def load_records(config: MllmTrainConfig) -> list[tuple[RegionRecord, float]]:
    """All regions with words that are not held out, each with the share of its source.

    Raises `ConfigError` for an empty source.
    """
    found: list[tuple[RegionRecord, float]] = []
    for source in config.data:
        before = len(found)
        for path in sorted(Path(source.root).glob("regions-*.jsonl*")):
            kept = (r for r in read_regions(path) if _wanted(r, source.shards, config))
            told = (_worded(record, source) for record in kept)
            found += [(r, source.share) for r in told if r.short or r.long]
        if len(found) == before:
            raise ConfigError(f"data root {source.root!r}: no regions-*.jsonl[.gz] with words")
    return found


def _wanted(record: RegionRecord, shards: tuple[str, ...], config: MllmTrainConfig) -> bool:
    in_shard = not shards or record.shard.startswith(shards)
    held = bool(config.held_out_every) and record.held_out(config.held_out_every)
    return in_shard and record.for_training and not held


def _worded(record: RegionRecord, source: MllmDataConfig) -> RegionRecord:
    """The record with the words that this source is to teach."""
    if source.class_names and not record.short and not record.long:
        phrase = class_phrase(record.category, record.source)
        record = replace(record, short=(phrase,) if phrase else ())
    if not source.plain_words:
        return record
    short, long = (_plain(texts) for texts in (record.short, record.long))
    return replace(record, short=short, long=long)


def _plain(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(clean, texts))))


def read_group(group: Group, images: ImageStore) -> tuple[Image, list[Mask]]:
    """Picture u8 [H, W, 3] and masks bool [H, W]. Raises `SourceError` when they do not fit."""
    image = images.read(group[0].record.image_key)
    return image, [_mask(row.record, image) for row in group]


def _mask(record: RegionRecord, image: Image) -> Mask:
    mask = np.asarray(rle.decode(Rle((record.height, record.width), record.counts)), np.bool_)
    if image.shape[:2] != mask.shape:
        raise SourceError(
            f"region {record.region_id!r}: the picture is {list(image.shape[:2])}, its mask "
            f"{list(mask.shape)}: expected one size"
        )
    return mask


def _grouped(rows: Sequence[Row], most: int) -> Iterator[Group]:
    """Rows of one picture together, at most so many; otherwise in the order in which they came."""
    if most == 1:
        yield from ((row,) for row in rows)
        return
    by_picture: dict[str, list[Row]] = {}
    for row in rows:
        by_picture.setdefault(row.record.image_key, []).append(row)
    for own in by_picture.values():
        yield from (tuple(own[at : at + most]) for at in range(0, len(own), most))


def _filled(groups: Iterable[Group], size: int) -> Iterator[list[Group]]:
    """Whole groups until there are `size` rows or more; the last list may have fewer."""
    taken: list[Group] = []
    for group in groups:
        taken.append(group)
        if sum(map(len, taken)) >= size:
            yield taken
            taken = []
    if taken:
        yield taken
