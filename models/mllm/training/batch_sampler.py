"""Selects the regions and captions of every step: a pure function of (seed, epoch).

Rows are grouped by length within windows, so that a batch holds images of similar numbers of tiles
and has little padding (URECA's and LLaVA's length grouping).
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ureca.datatypes import Image, Mask, Rle, Style
from ureca.errors import ConfigError, SourceError
from ureca.models.data.regions import ImageStore, RegionRecord, read_regions
from ureca.models.data.text_augmentation import make_class_phrase
from ureca.models.mllm.image_tiles import ImageTiler
from ureca.models.mllm.training.config import MllmDataConfig, MllmTrainConfig
from ureca.models.training.dataset import normalise_text
from ureca.models.training.loop import Plan
from ureca.protocol import rle

_WINDOW = 32
"""Batches among which rows are sorted by length."""
_CHARACTERS_PER_TOKEN = 4
"""For grouping only; the caption's real length is known when it is encoded."""


@dataclass(frozen=True)
class CaptionRow:
    """One region and its caption texts."""

    record: RegionRecord
    style: Style
    texts: tuple[str, ...]
    tiles: int
    attribute: str = ""
    """What the texts are about; empty: they are captions."""

    def estimate_length(self, tokens_per_tile: int) -> int:
        """Return roughly how many tokens the row takes, for grouping."""
        said = sum(map(len, self.texts)) // _CHARACTERS_PER_TOKEN
        return self.tiles * tokens_per_tile + said


Group = tuple[CaptionRow, ...]
"""Rows of one picture that share its prefix."""


class MllmPlan(Plan[Group]):
    """Makes epochs of rows."""

    def __init__(
        self,
        records: Sequence[tuple[RegionRecord, float]],
        config: MllmTrainConfig,
        *,
        tiler: ImageTiler,
        tokens_per_tile: int,
        attributes: Collection[str] = (),
    ) -> None:
        """`attributes`: those that the captioner can be asked for."""
        self._asked = frozenset(attributes)
        self._config, self._per_tile = config, tokens_per_tile
        kept = [(r, n) for r, n in records if r.short or r.long or self._has_asked(r)]
        self._records = [(r, tiler.choose_grid(r.width, r.height).tiles, n) for r, n in kept]
        if not kept:
            raise ConfigError("the data holds no region with words: give another `data`")

    def _has_asked(self, record: RegionRecord) -> bool:
        return any(name in self._asked for name, _ in record.attributes)

    def epoch(self, epoch: int) -> list[list[Group]]:
        """Return the batches of one epoch. Rows that fill no batch wait for another epoch."""
        rng = random.Random(f"{self._config.seed}/{epoch}")
        rows = [self._make_row(record, tiles, rng) for record, tiles in self._draw_regions(rng)]
        rng.shuffle(rows)
        size = self._config.rows_per_step
        while len(rows) < size:
            rows += rows[: size - len(rows)]
        groups = list(_group_by_picture(rows, self._config.regions_per_picture))
        rng.shuffle(groups)
        batches: list[list[Group]] = []
        for window in _fill_batches(groups, size * _WINDOW):
            ordered = sorted(
                window, key=lambda g: sum(row.estimate_length(self._per_tile) for row in g)
            )
            batches += [b for b in _fill_batches(ordered, size) if sum(map(len, b)) >= size]
        rng.shuffle(batches)
        return batches

    def _draw_regions(self, rng: random.Random) -> Iterator[tuple[RegionRecord, int]]:
        for record, tiles, share in self._records:
            for _ in range(int(share) + (rng.random() < share % 1)):
                yield record, tiles

    def _make_row(self, record: RegionRecord, tiles: int, rng: random.Random) -> CaptionRow:
        told = [pair for pair in record.attributes if pair[0] in self._asked]
        captions = record.short or record.long
        if told and (not captions or rng.random() < self._config.attribute_share):
            name, texts = rng.choice(told)
            return CaptionRow(record, "short", (rng.choice(texts),), tiles, name)
        long = rng.random() < self._config.long_share
        style: Style = "long" if record.long and (long or not record.short) else "short"
        texts = record.long if style == "long" else record.short
        chosen = rng.sample(texts, min(len(texts), self._config.phrases_per_region))
        return CaptionRow(record, style, tuple(chosen), tiles)


def load_records(config: MllmTrainConfig) -> list[tuple[RegionRecord, float]]:
    """Read all regions with texts that are not held out, each with the share of its source.

    Raises `ConfigError` for an empty source.
    """
    found: list[tuple[RegionRecord, float]] = []
    for source in config.data:
        before = len(found)
        for path in sorted(Path(source.root).glob("regions-*.jsonl*")):
            kept = (r for r in read_regions(path) if _is_wanted(r, source.shards, config))
            told = (_select_texts(record, source) for record in kept)
            found += [(r, source.share) for r in told if r.short or r.long or r.attributes]
        if len(found) == before:
            raise ConfigError(f"data root {source.root!r}: no regions-*.jsonl[.gz] with words")
    return found


def _is_wanted(record: RegionRecord, shards: tuple[str, ...], config: MllmTrainConfig) -> bool:
    in_shard = not shards or record.shard.startswith(shards)
    held = bool(config.held_out_every) and record.is_held_out(config.held_out_every)
    return in_shard and record.for_training and not held


def _select_texts(record: RegionRecord, source: MllmDataConfig) -> RegionRecord:
    """Return the record with the texts that this source teaches."""
    if source.class_names and not record.short and not record.long:
        phrase = make_class_phrase(record.category, record.source)
        record = replace(record, short=(phrase,) if phrase else ())
    if not source.plain_words:
        return record
    short, long = (_normalise_texts(texts) for texts in (record.short, record.long))
    told = ((name, _normalise_texts(texts)) for name, texts in record.attributes)
    attributes = tuple((name, texts) for name, texts in told if texts)
    return replace(record, short=short, long=long, attributes=attributes)


def _normalise_texts(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(normalise_text, texts))))


def read_group(group: Group, images: ImageStore) -> tuple[Image, list[Mask]]:
    """Picture u8 [H, W, 3] and masks bool [H, W]. Raises `SourceError` when they do not fit."""
    image = images.read(group[0].record.image_key)
    return image, [_decode_mask(row.record, image) for row in group]


def _decode_mask(record: RegionRecord, image: Image) -> Mask:
    mask = np.asarray(rle.decode(Rle((record.height, record.width), record.counts)), np.bool_)
    if image.shape[:2] != mask.shape:
        raise SourceError(
            f"region {record.region_id!r}: the picture is {list(image.shape[:2])}, its mask "
            f"{list(mask.shape)}: expected one size"
        )
    return mask


def _group_by_picture(rows: Sequence[CaptionRow], most: int) -> Iterator[Group]:
    """Group rows of one image, at most so many; otherwise rows stay in their order."""
    if most == 1:
        yield from ((row,) for row in rows)
        return
    by_picture: dict[str, list[CaptionRow]] = {}
    for row in rows:
        by_picture.setdefault(row.record.image_key, []).append(row)
    for own in by_picture.values():
        yield from (tuple(own[at : at + most]) for at in range(0, len(own), most))


def _fill_batches(groups: Iterable[Group], size: int) -> Iterator[list[Group]]:
    """Collect whole groups until there are `size` rows or more; the last list may have fewer."""
    taken: list[Group] = []
    for group in groups:
        taken.append(group)
        if sum(map(len, taken)) >= size:
            yield taken
            taken = []
    if taken:
        yield taken
