"""Records to batches. A batch is some pictures with the same number of regions each.

Which regions, which of their phrases and which style are drawn by a generator seeded with (seed,
epoch): the plan of an epoch is a pure function, so a run resumed at step k sees exactly what an
unbroken run would have seen.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ureca.datatypes import Style
from ureca.errors import ConfigError
from ureca.extras import require
from ureca.models.config import VisionConfig
from ureca.models.data.regions import RegionRecord, read_regions
from ureca.models.preprocess import Grid, box_norm_from_mask, mask_tiles
from ureca.models.tokenizer import EOS_ID, PAD_ID, Tokenizer
from ureca.models.training.config import DataConfig, TrainConfig

_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*|,")
_SORT_WINDOW = 16  # batches among which groups are sorted by length, to pad less


@dataclass(frozen=True)
class Region:
    """A record as training needs it: words, packed mask tile and box."""

    image_key: str
    source: int
    short: tuple[str, ...]
    long: tuple[str, ...]
    mask_bits: npt.NDArray[np.uint8]
    box_norm: npt.NDArray[np.float32]

    def phrase(self, style: Style, rng: random.Random) -> tuple[Style, str]:
        """One of its phrases; the other style when it has none of the wanted one."""
        if (style == "short" and self.short) or not self.long:
            return "short", rng.choice(self.short)
        return "long", rng.choice(self.long)


@dataclass(frozen=True)
class Group:
    """One picture with `regions_per_image` regions and the phrase drawn for each, as token ids."""

    image_key: str
    regions: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """The longest caption, start and end tokens included."""
        return max(map(len, self.ids))


@dataclass(frozen=True)
class Batch:
    """B pictures x R regions, rows ordered by picture.

    `masks` f32 [B*R, 1, M, M] of 0/1, `boxes` f32 [B*R, 4] normalised xyxy, `ids` i64 [B*R, L]:
    style token, caption, `<eos>`, padding.
    """

    image_keys: tuple[str, ...]
    masks: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]


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
    return in_shard and bool(
        record.short or record.long or (source.class_names and record.category)
    )


def build_regions(
    records: Iterable[tuple[int, RegionRecord]], vision: VisionConfig
) -> list[Region]:
    """Decode and pack all masks once, with progress; regions with an empty mask are left out."""
    coco = require("pycocotools.mask", extra="train")
    regions: list[Region] = []
    for source, record in tqdm(list(records), desc="masks", unit="region"):
        mask = coco.decode(
            {"size": [record.height, record.width], "counts": record.counts.encode()}
        )
        if mask.any():
            regions.append(_region(source, record, mask, vision))
    return regions


def _region(
    source: int, record: RegionRecord, mask: npt.NDArray[np.uint8], vision: VisionConfig
) -> Region:
    tile = mask_tiles(mask, Grid(1, 1), vision)[0]
    short, long = _words(record.short), _words(record.long)
    if not short and not long:
        article = "an" if record.category[0] in "aeiou" else "a"
        short = (f"{article} {clean(record.category)}",)
    return Region(
        record.image_key,
        source,
        short,
        long,
        np.packbits(tile.astype(bool)),
        box_norm_from_mask(mask),
    )


def _words(phrases: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(clean, phrases))))


class Plan:
    """Epochs of groups over the regions, and the batches of every step."""

    def __init__(
        self, regions: Sequence[Region], tokenizer: Tokenizer, config: TrainConfig
    ) -> None:
        self.regions, self._tokenizer, self._config = regions, tokenizer, config
        self._by_image: dict[str, list[int]] = defaultdict(list)
        for index, region in enumerate(regions):
            self._by_image[region.image_key].append(index)

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, list[Group]]]:
        """The groups of steps `start..stop-1`."""
        batches = itertools.chain.from_iterable(map(self.epoch, itertools.count()))
        yield from itertools.islice(enumerate(batches), start, stop)

    def epoch(self, epoch: int) -> list[list[Group]]:
        """Batches of one epoch, a pure function of (seed, epoch).

        Raises `ConfigError` when there is nothing to draw from.
        """
        rng = random.Random(f"{self._config.seed}/{epoch}")
        groups = [g for key in self._visited(rng) for g in self._groups(key, rng)]
        if not groups:
            raise ConfigError(
                f"an epoch over {len(self._by_image)} pictures is empty: give more data, a larger "
                f"`share`, or another `held_out_every` (now {self._config.held_out_every})"
            )
        rng.shuffle(groups)
        batches = _sorted_batches(groups, self._config.images_per_step)
        rng.shuffle(batches)
        return batches

    def _visited(self, rng: random.Random) -> list[str]:
        shares = [source.share for source in self._config.data]
        return [
            k
            for k, rows in self._by_image.items()
            if rng.random() < shares[self.regions[rows[0]].source]
        ]

    def _groups(self, key: str, rng: random.Random) -> Iterator[Group]:
        size, rows = self._config.regions_per_image, list(self._by_image[key])
        rng.shuffle(rows)
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            chosen += rng.choices(rows, k=size - len(chosen))
            style: Style = "long" if rng.random() < self._config.long_share else "short"
            yield Group(
                key, tuple(chosen), tuple(self._ids(self.regions[i], style, rng) for i in chosen)
            )

    def _ids(self, region: Region, style: Style, rng: random.Random) -> tuple[int, ...]:
        style, text = region.phrase(style, rng)
        words = self._tokenizer.encode(text)[: self._config.model.language.max_new_tokens - 1]
        return (Tokenizer.start_id(style), *words, EOS_ID)

    def collate(self, groups: Sequence[Group], vision: VisionConfig) -> Batch:
        """Groups to arrays; captions are padded to a multiple of four (few shapes)."""
        chosen = [self.regions[i] for g in groups for i in g.regions]
        side, length = vision.mask_px, -(-max(g.length for g in groups) // 4) * 4 + 1
        bits = np.stack([r.mask_bits for r in chosen])
        masks = np.unpackbits(bits, axis=1)[:, : side * side].reshape(-1, 1, side, side)
        ids = np.full((len(chosen), length), PAD_ID, np.int64)
        for row, caption in enumerate(c for g in groups for c in g.ids):
            ids[row, : len(caption)] = caption
        boxes = np.stack([r.box_norm for r in chosen])
        return Batch(tuple(g.image_key for g in groups), masks.astype(np.float32), boxes, ids)


def _sorted_batches(groups: list[Group], size: int) -> list[list[Group]]:
    """Neighbouring lengths together within a window.

    A last incomplete batch is left out, unless it would be the only one.
    """
    batches: list[list[Group]] = []
    for start in range(0, len(groups), size * _SORT_WINDOW):
        window = sorted(groups[start : start + size * _SORT_WINDOW], key=lambda g: g.length)
        batches += [window[i : i + size] for i in range(0, len(window) - size + 1, size)]
    return batches or [groups]
