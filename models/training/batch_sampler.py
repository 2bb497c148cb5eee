"""Which pictures, regions and phrases every step learns from. A batch is some pictures with the
same number of regions and of phrases each.

Everything random is drawn by a generator seeded with (seed, epoch): the plan of an epoch is a pure
function, so a run resumed at step k sees exactly what an unbroken run would have seen.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Style
from ureca.errors import ConfigError
from ureca.models.config import VisionConfig
from ureca.models.data.mask_noise import noisy_mask
from ureca.models.data.text_augmentation import flip_words
from ureca.models.preprocess import box_norm_from_mask
from ureca.models.tokenizer import EOS_ID, PAD_ID, Tokenizer
from ureca.models.training.config import TrainConfig
from ureca.models.training.dataset import Region
from ureca.models.training.feature_source import Picture
from ureca.models.training.logit_prior import COMMON_WORDS
from ureca.models.training.loop import Plan

_SORT_WINDOW = 16  # batches among which groups are sorted by length, to pad less
_CLEAN = 0
_BAG = 16
Text = tuple[int, tuple[int, ...]]
"""The slot (region of its group) that a phrase is about, and its ids: style, words, `<eos>`."""
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """One picture, some of its regions, and the phrases drawn for them.

    `noise` holds a seed for every mask that is to be damaged and 0 for the others; `others` is, for
    each text, the slot of a region that it was not said of (its own slot when there is none).
    """

    picture: Picture
    regions: tuple[int, ...]
    noise: tuple[int, ...]
    texts: tuple[Text, ...]
    others: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Regions and texts: one number each within a batch."""
        return len(self.regions), len(self.texts)

    @property
    def length(self) -> int:
        """The longest phrase, start and end tokens included."""
        return max(len(ids) for _, ids in self.texts)


@dataclass(frozen=True)
class Batch:
    """B pictures x R regions and x K texts, rows ordered by picture.

    `masks` f32 [B*R, 1, M, M] of 0/1, `boxes` f32 [B*R, 4] normalised xyxy, `ids` i64 [B*K, L]:
    style token, caption, `<eos>`, padding; `about` and `others` i64 [B*K]: rows of regions;
    where only the first `told` regions of every picture count. `regions`: for each picture, those
    regions' places in the plan; `bags` i64 [B*R, W]: ids of the
    words that tell a region, padded.
    """

    pictures: tuple[Picture, ...]
    masks: F32
    boxes: F32
    ids: I64
    about: I64
    others: I64
    regions: tuple[tuple[int, ...], ...]
    bags: I64
    told: int


class NanoPlan(Plan[Group]):
    """Epochs of groups over the regions."""

    def __init__(
        self, regions: Sequence[Region], tokenizer: Tokenizer, config: TrainConfig
    ) -> None:
        self.regions, self._tokenizer, self._config = regions, tokenizer, config
        self._by_image: dict[str, list[int]] = defaultdict(list)
        for index, region in enumerate(regions):
            self._by_image[region.image_key].append(index)

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

    def _visited(self, rng: random.Random) -> Iterator[str]:
        shares = [source.share for source in self._config.data]
        for key, rows in self._by_image.items():
            share = shares[self.regions[rows[0]].source]
            yield from itertools.repeat(key, int(share) + (rng.random() < share % 1))

    def _groups(self, key: str, rng: random.Random) -> Iterator[Group]:
        rows = list(self._by_image[key])
        source = self._config.data[self.regions[rows[0]].source]
        size = source.regions_per_image
        rng.shuffle(rows)
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            chosen += rng.choices(rows, k=size - len(chosen))
            long_share = self._config.long_share if source.long_share is None else source.long_share
            style: Style = "long" if rng.random() < long_share else "short"
            damaged = [rng.random() < source.mask_noise for _ in chosen]
            noise = tuple(rng.getrandbits(32) | 1 if d else _CLEAN for d in damaged)
            mirrored = source.mirror and rng.random() < 0.5
            yield self._group((key, mirrored), chosen, style, noise=noise, rng=rng)

    def _group(
        self,
        picture: Picture,
        chosen: Sequence[int],
        style: Style,
        *,
        noise: tuple[int, ...],
        rng: random.Random,
    ) -> Group:
        said = [_phrases(self.regions[i], style, mirrored=picture[1]) for i in chosen]
        if not all(texts for _, texts in said):  # a phrase that cannot be said in a mirror
            return self._group((picture[0], False), chosen, style, noise=noise, rng=rng)
        source = self._config.data[self.regions[chosen[0]].source]
        drawn = _draw([texts for _, texts in said], source.texts_per_image, rng)
        texts = tuple((slot, self._ids(said[slot][0], text)) for slot, text in drawn)
        told = said[: len(drawn)]
        others = tuple(_other(slot, text, told, rng) for slot, text in drawn)
        return Group(picture, tuple(chosen), noise, texts, others)

    def _ids(self, style: Style, text: str) -> tuple[int, ...]:
        words = self._tokenizer.encode(text)[: self._config.model.language.max_new_tokens - 1]
        return (Tokenizer.start_id(style), *words, EOS_ID)

    def collate(self, groups: Sequence[Group], vision: VisionConfig) -> Batch:
        """Groups to arrays; captions are padded to a multiple of four (few shapes)."""
        chosen = [(self.regions[i], seed, g.picture[1]) for g in groups for i, seed in _rows(g)]
        masks, boxes = zip(
            *(_shown(r, seed, flip, vision) for r, seed, flip in chosen), strict=True
        )
        length = -(-max(g.length for g in groups) // 4) * 4 + 1
        ids = np.full((sum(len(g.texts) for g in groups), length), PAD_ID, np.int64)
        for row, (_, caption) in enumerate(t for g in groups for t in g.texts):
            ids[row, : len(caption)] = caption
        told = min(groups[0].shape)
        about = [n * told + slot for n, g in enumerate(groups) for slot, _ in g.texts]
        others = [n * told + slot for n, g in enumerate(groups) for slot in g.others]
        return Batch(
            tuple(g.picture for g in groups),
            np.stack(masks)[:, None].astype(np.float32),
            np.stack(boxes),
            ids,
            np.array(about),
            np.array(others),
            tuple(g.regions[:told] for g in groups),
            self._bags([self.regions[i] for g in groups for i in g.regions]),
            told,
        )

    def _bags(self, regions: Sequence[Region]) -> I64:
        bags = np.full((len(regions), _BAG), PAD_ID, np.int64)
        for row, region in enumerate(regions):
            ids = [i for text in region.short or region.long for i in self._telling(text)][:_BAG]
            bags[row, : len(ids)] = ids
        return bags

    def _telling(self, text: str) -> list[int]:
        return self._tokenizer.encode(" ".join(w for w in text.split() if w not in COMMON_WORDS))


def _rows(group: Group) -> Iterator[tuple[int, int]]:
    return zip(group.regions, group.noise, strict=True)


def _phrases(region: Region, style: Style, *, mirrored: bool) -> tuple[Style, tuple[str, ...]]:
    style, texts = region.phrases(style)
    if not mirrored:
        return style, texts
    return style, tuple(text for text in map(flip_words, texts) if text)


def _draw(
    phrases: Sequence[Sequence[str]], count: int, rng: random.Random
) -> list[tuple[int, str]]:
    """`count` phrases: one of every region, then further ones, then repeats."""
    decks = [rng.sample(texts, len(texts)) for texts in phrases]
    rounds = itertools.zip_longest(*decks)
    drawn = [(slot, t) for one_round in rounds for slot, t in enumerate(one_round) if t is not None]
    while len(drawn) < count:
        slot = rng.randrange(len(decks))
        drawn.append((slot, rng.choice(decks[slot])))
    return drawn[:count]


def _other(
    slot: int, text: str, said: Sequence[tuple[Style, Sequence[str]]], rng: random.Random
) -> int:
    rivals = [other for other, (_, texts) in enumerate(said) if text not in texts]
    return rng.choice(rivals) if rivals else slot


def _shown(region: Region, seed: int, flip: bool, vision: VisionConfig) -> tuple[F32, F32]:  # noqa: FBT001
    """Mask tile [M, M] and box of a region, mirrored and damaged as planned."""
    side = vision.mask_px
    mask = np.unpackbits(region.mask_bits)[: side * side].reshape(side, side).astype(bool)
    box = region.box_norm
    if flip:
        mask, box = mask[:, ::-1], np.array([1 - box[2], box[1], 1 - box[0], box[3]], np.float32)
    if seed != _CLEAN:
        mask = noisy_mask(np.ascontiguousarray(mask), np.random.default_rng(seed))
        box = box_norm_from_mask(mask)
    return mask.astype(np.float32), box


def _sorted_batches(groups: list[Group], size: int) -> list[list[Group]]:
    """Groups of one shape, neighbouring lengths together within a window.

    A last incomplete batch of a shape is left out, unless it would be the only one.
    """
    shapes: dict[tuple[int, int], list[Group]] = defaultdict(list)
    for group in groups:
        shapes[group.shape].append(group)
    batches: list[list[Group]] = []
    for alike in shapes.values():
        for start in range(0, len(alike), size * _SORT_WINDOW):
            window = sorted(alike[start : start + size * _SORT_WINDOW], key=lambda g: g.length)
            batches += [window[i : i + size] for i in range(0, len(window) - size + 1, size)]
    return batches or [max(shapes.values(), key=len)]
