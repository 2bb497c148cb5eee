"""Which regions and captions every step learns from: a pure function of (seed, epoch).

Rows are grouped by length within windows, so that a batch holds pictures of alike numbers of tiles
and pads little (URECA's and LLaVA's length grouping).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ureca import rle
from ureca.datatypes import Image, Mask, Rle, Style
from ureca.errors import ConfigError, SourceError
from ureca.models.data.regions import ImageStore, RegionRecord, read_regions
from ureca.models.mllm.pictures import Cutter
from ureca.models.mllm.training.config import MllmTrainConfig

_WINDOW = 32
"""Batches among which rows are sorted by length."""
_CHARACTERS_PER_TOKEN = 4
"""For grouping only; the caption's real length is known when it is encoded."""


@dataclass(frozen=True)
class Row:
    """One region to caption, and what to say."""

    record: RegionRecord
    style: Style
    text: str
    tiles: int

    def length(self, tokens_per_tile: int) -> int:
        """Roughly how many tokens it takes: for grouping."""
        return self.tiles * tokens_per_tile + len(self.text) // _CHARACTERS_PER_TOKEN


class Plan:
    """Epochs of rows, and the rows of every step."""

    def __init__(
        self,
        records: Sequence[RegionRecord],
        config: MllmTrainConfig,
        *,
        cutter: Cutter,
        tokens_per_tile: int,
    ) -> None:
        self._config, self._per_tile = config, tokens_per_tile
        self._records = [(r, cutter.grid(r.width, r.height).tiles) for r in records]
        if not records:
            raise ConfigError("the data holds no region with words: give another `data`")

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, list[Row]]]:
        """The rows of steps `start..stop-1`."""
        batches = itertools.chain.from_iterable(map(self.epoch, itertools.count()))
        yield from itertools.islice(enumerate(batches), start, stop)

    def epoch(self, epoch: int) -> list[list[Row]]:
        """Batches of one epoch; the last rows that fill no batch wait for another epoch."""
        rng = random.Random(f"{self._config.seed}/{epoch}")
        rows = [self._row(record, tiles, rng) for record, tiles in self._records]
        rng.shuffle(rows)
        size = self._config.rows_per_step
        while len(rows) < size:
            rows += rows[: size - len(rows)]
        batches: list[list[Row]] = []
        for window in _parts(rows, size * _WINDOW):
            ordered = sorted(window, key=lambda row: row.length(self._per_tile))
            batches += [part for part in _parts(ordered, size) if len(part) == size]
        rng.shuffle(batches)
        return batches

    def _row(self, record: RegionRecord, tiles: int, rng: random.Random) -> Row:
        long = rng.random() < self._config.long_share
        style: Style = "long" if record.long and (long or not record.short) else "short"
        texts = record.long if style == "long" else record.short
        return Row(record, style, rng.choice(texts), tiles)


def load_records(config: MllmTrainConfig) -> list[RegionRecord]:
    """All regions with words that are not held out. Raises `ConfigError` for an empty source."""
    found: list[RegionRecord] = []
    for source in config.data:
        before = len(found)
        for path in sorted(Path(source.root).glob("regions-*.jsonl*")):
            found += [r for r in read_regions(path) if _wanted(r, source.shards, config)]
        if len(found) == before:
            raise ConfigError(f"data root {source.root!r}: no regions-*.jsonl[.gz] with words")
    return found


def _wanted(record: RegionRecord, shards: tuple[str, ...], config: MllmTrainConfig) -> bool:
    in_shard = not shards or record.shard.startswith(shards)
    held = bool(config.held_out_every) and record.held_out(config.held_out_every)
    return in_shard and record.for_training and not held and bool(record.short or record.long)


def read_row(row: Row, images: ImageStore) -> tuple[Image, Mask]:
    """Picture u8 [H, W, 3] and mask bool [H, W]. Raises `SourceError` when they do not fit."""
    record = row.record
    image = images.read(record.image_key)
    mask = np.asarray(rle.decode(Rle((record.height, record.width), record.counts)), np.bool_)
    if image.shape[:2] != mask.shape:
        raise SourceError(
            f"region {record.region_id!r}: the picture is {list(image.shape[:2])}, its mask "
            f"{list(mask.shape)}: expected one size"
        )
    return image, mask


def _parts(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    yield from (list(rows[at : at + size]) for at in range(0, len(rows), size))
