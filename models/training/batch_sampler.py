"""Selects the images, regions and phrases of every step. A batch is some images with equal numbers
of regions and of phrases.

A generator seeded with (seed, epoch) draws everything random. The plan of an epoch is a pure
function, so a run resumed at step k gets the same batches as an uninterrupted run.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Style
from ureca.errors import ConfigError
from ureca.models.config import VisionConfig
from ureca.models.data.mask_fragments import fragment_of
from ureca.models.data.mask_noise import make_noisy_mask
from ureca.models.data.text_augmentation import mirror_text
from ureca.models.preprocess import compute_box_norm
from ureca.models.tokenizer import EOS_ID, PAD_ID, Tokenizer
from ureca.models.training.config import TrainConfig
from ureca.models.training.dataset import Region
from ureca.models.training.feature_source import Picture
from ureca.models.training.logit_prior import COMMON_WORDS
from ureca.models.training.loop import Plan
from ureca.models.training.rivals import (
    HardStatement,
    by_picture,
    cells,
    draw_fragments,
    draw_statements,
    has_fragment,
    parts_of_others,
    whole_picture,
)

_SORT_WINDOW = 16  # window in batches in which groups are sorted by length, to reduce padding
_CLEAN = 0
_BAG = 16
Text = tuple[int, tuple[int, ...]]
"""The slot (region of its group) that a phrase is about, and its ids: style, words, `<eos>`."""
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """One image, some of its regions, and the phrases drawn for them.

    `noise` holds a seed for every mask that is to be damaged and 0 for the others; `others` is, for
    each text, the slot of a region that it was not said of (its own slot when there is none).
    `fragments` are slots and seeds: pieces of those regions, themselves slots `told`, `told + 1`
    and so on. `negatives` are for each text the ids of a false variant, in a group of hard
    statements alone.
    """

    picture: Picture
    regions: tuple[int, ...]
    noise: tuple[int, ...]
    texts: tuple[Text, ...]
    others: tuple[int, ...]
    fragments: tuple[tuple[int, int], ...] = ()
    negatives: tuple[tuple[int, ...], ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, bool]:
        """Regions, texts, fragments, and whether they are statements: the same within a batch."""
        return len(self.regions), len(self.texts), len(self.fragments), bool(self.negatives)

    @property
    def told(self) -> int:
        """How many of the regions, from the first on, texts are about."""
        return min(len(self.regions), len(self.texts))

    @property
    def length(self) -> int:
        """The longest phrase, start and end tokens included."""
        return max(len(ids) for ids in (*(ids for _, ids in self.texts), *self.negatives))


@dataclass(frozen=True)
class Batch:
    """B pictures x R regions (and F fragments behind them) and x K texts, rows ordered by picture.

    `masks` f32 [B*(R+F), 1, M, M] of 0/1, `boxes` f32 [B*(R+F), 4] normalised xyxy, `ids` i64
    [B*K, L]: style token, caption, `<eos>`, padding; `about` and `others` i64 [B*K]: rows of
    regions; where only the first `told` regions of every picture and its fragments count.
    `regions`: for each picture, those regions' places in the plan; `bags` i64 [B*R, W]: ids of the
    words that tell a region, padded. `negatives` i64 [B*K, L]: false variants of the texts, in a
    batch of hard statements alone.
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
    fragments: int = 0
    negatives: I64 | None = None

    @property
    def rows(self) -> I64:
        """The rows of the regions that texts are about, without the fragments, i64 [B*told]."""
        first = np.arange(len(self.pictures))[:, None] * (self.told + self.fragments)
        return np.asarray((first + np.arange(self.told)).ravel(), np.int64)


class NanoPlan(Plan[Group]):
    """Makes epochs of groups over the regions."""

    def __init__(
        self,
        regions: Sequence[Region],
        tokenizer: Tokenizer,
        config: TrainConfig,
        *,
        statements: Sequence[HardStatement] = (),
    ) -> None:
        """`statements` are about pictures of `regions`; see `RivalConfig`."""
        self._tokenizer, self._config = tokenizer, config
        self._by_image: dict[str, list[int]] = defaultdict(list)
        for index, region in enumerate(regions):
            self._by_image[region.image_key].append(index)
        # What differs only beyond the longest caption is the same to the network.
        apart = [
            s
            for s in statements
            if self._encode("long", s.caption) != self._encode("long", s.negative)
        ]
        self._statements = by_picture(apart)
        sources = {key: regions[self._by_image[key][0]].source for key in self._statements}
        wholes = [whole_picture(k, s, config.model.vision) for k, s in sources.items()]
        self._whole = {whole.image_key: len(regions) + n for n, whole in enumerate(wholes)}
        self.regions: Sequence[Region] = [*regions, *wholes]

    def epoch(self, epoch: int) -> list[list[Group]]:
        """Return the batches of one epoch, a pure function of (seed, epoch).

        Raises `ConfigError` when there is nothing to draw from.
        """
        rng = random.Random(f"{self._config.seed}/{epoch}")
        groups = [g for key in self._draw_pictures(rng) for g in self._make_groups(key, rng)]
        groups += self._hard_groups(rng)
        if not groups:
            raise ConfigError(
                f"an epoch over {len(self._by_image)} pictures is empty: give more data, a larger "
                f"`share`, or another `held_out_every` (now {self._config.held_out_every})"
            )
        rng.shuffle(groups)
        batches = _make_batches(groups, self._config.images_per_step)
        rng.shuffle(batches)
        return batches

    def _draw_pictures(self, rng: random.Random) -> Iterator[str]:
        shares = [source.share for source in self._config.data]
        for key, rows in self._by_image.items():
            share = shares[self.regions[rows[0]].source]
            yield from itertools.repeat(key, int(share) + (rng.random() < share % 1))

    def _make_groups(self, key: str, rng: random.Random) -> Iterator[Group]:
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
            yield self._make_group((key, mirrored), chosen, style, noise=noise, rng=rng)

    def _make_group(
        self,
        picture: Picture,
        chosen: Sequence[int],
        style: Style,
        *,
        noise: tuple[int, ...],
        rng: random.Random,
    ) -> Group:
        said = [_list_phrases(self.regions[i], style, mirrored=picture[1]) for i in chosen]
        if not all(texts for _, texts in said):  # a phrase that is false for the mirrored image
            return self._make_group((picture[0], False), chosen, style, noise=noise, rng=rng)
        source = self._config.data[self.regions[chosen[0]].source]
        drawn = _draw_phrases([texts for _, texts in said], source.texts_per_image, rng)
        texts = tuple((slot, self._encode(said[slot][0], text)) for slot, text in drawn)
        told = said[: len(drawn)]
        others = tuple(_choose_other_region(slot, text, told, rng) for slot, text in drawn)
        group = Group(picture, tuple(chosen), noise, texts, others)
        return self._harder(group, rng) if self._config.rivals.on else group

    def _harder(self, group: Group, rng: random.Random) -> Group:
        """The same group with harder rivals for some of its texts."""
        rivals, vision = self._config.rivals, self._config.model.vision
        told = [self.regions[index] for index in group.regions[: group.told]]
        others = list(group.others)
        for place, (slot, _) in enumerate(group.texts):
            if rng.random() < rivals.other_parts:
                parts = list(parts_of_others(slot, told, vision))
                others[place] = rng.choice(parts) if parts else others[place]
        fragments = draw_fragments(told, rivals, vision, rng)
        for row, (slot, _) in enumerate(fragments, len(told)):
            if has_fragment(told[slot], vision):
                for place, (about, _) in enumerate(group.texts):
                    others[place] = row if about == slot else others[place]
        return replace(group, others=tuple(others), fragments=fragments)

    def _hard_groups(self, rng: random.Random) -> Iterator[Group]:
        """Hard statements about whole pictures."""
        rivals = self._config.rivals
        for key, known in self._statements.items():
            share = rivals.statement_share
            for _ in range(int(share) + (rng.random() < share % 1)):
                drawn = draw_statements(known, rivals.statements_per_image, rng)
                texts = tuple((0, self._encode("long", one.caption)) for one in drawn)
                negatives = tuple(self._encode("long", one.negative) for one in drawn)
                others = (0,) * len(texts)
                whole = (self._whole[key],)
                yield Group((key, False), whole, (_CLEAN,), texts, others, (), negatives)

    def _encode(self, style: Style, text: str) -> tuple[int, ...]:
        words = self._tokenizer.encode(text)[: self._config.model.language.max_new_tokens - 1]
        return (Tokenizer.start_id(style), *words, EOS_ID)

    def collate(self, groups: Sequence[Group], vision: VisionConfig) -> Batch:
        """Convert groups to arrays. Captions are padded to a multiple of four, so that there are
        few shapes.
        """
        shown = [one for group in groups for one in self._load_masks(group, vision)]
        masks, boxes = zip(*shown, strict=True)
        length = -(-max(g.length for g in groups) // 4) * 4 + 1
        told, fragments = groups[0].told, len(groups[0].fragments)
        about = [n * (told + fragments) + slot for n, g in enumerate(groups) for slot, _ in g.texts]
        others = [n * (told + fragments) + slot for n, g in enumerate(groups) for slot in g.others]
        negatives = [ids for g in groups for ids in g.negatives]
        return Batch(
            tuple(g.picture for g in groups),
            np.stack(masks)[:, None].astype(np.float32),
            np.stack(boxes),
            _pad_texts([ids for g in groups for _, ids in g.texts], length),
            np.array(about),
            np.array(others),
            tuple(g.regions[:told] for g in groups),
            self._make_bags([self.regions[i] for g in groups for i in g.regions]),
            told,
            fragments,
            _pad_texts(negatives, length) if negatives else None,
        )

    def _load_masks(self, group: Group, vision: VisionConfig) -> Iterator[tuple[F32, F32]]:
        """Mask tiles and boxes of a group's regions, then of its fragments."""
        mirrored = group.picture[1]
        for index, seed in zip(group.regions, group.noise, strict=True):
            yield _load_mask(self.regions[index], seed, mirrored, vision)
        for slot, seed in group.fragments:
            yield _load_fragment(self.regions[group.regions[slot]], seed, mirrored, vision)

    def _make_bags(self, regions: Sequence[Region]) -> I64:
        bags = np.full((len(regions), _BAG), PAD_ID, np.int64)
        for row, region in enumerate(regions):
            ids = [
                i for text in region.short or region.long for i in self._list_informative_ids(text)
            ][:_BAG]
            bags[row, : len(ids)] = ids
        return bags

    def _list_informative_ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(" ".join(w for w in text.split() if w not in COMMON_WORDS))


def _pad_texts(texts: Sequence[Sequence[int]], length: int) -> I64:
    ids = np.full((len(texts), length), PAD_ID, np.int64)
    for row, caption in enumerate(texts):
        ids[row, : len(caption)] = caption
    return ids


def _list_phrases(region: Region, style: Style, *, mirrored: bool) -> tuple[Style, tuple[str, ...]]:
    style, texts = region.phrases(style)
    if not mirrored:
        return style, texts
    return style, tuple(text for text in map(mirror_text, texts) if text)


def _draw_phrases(
    phrases: Sequence[Sequence[str]], count: int, rng: random.Random
) -> list[tuple[int, str]]:
    """Draw `count` phrases: one of every region, then further ones, then repeats."""
    decks = [rng.sample(texts, len(texts)) for texts in phrases]
    rounds = itertools.zip_longest(*decks)
    drawn = [(slot, t) for one_round in rounds for slot, t in enumerate(one_round) if t is not None]
    while len(drawn) < count:
        slot = rng.randrange(len(decks))
        drawn.append((slot, rng.choice(decks[slot])))
    return drawn[:count]


def _choose_other_region(
    slot: int, text: str, said: Sequence[tuple[Style, Sequence[str]]], rng: random.Random
) -> int:
    rivals = [other for other, (_, texts) in enumerate(said) if text not in texts]
    return rng.choice(rivals) if rivals else slot


def _load_mask(region: Region, seed: int, flip: bool, vision: VisionConfig) -> tuple[F32, F32]:  # noqa: FBT001
    """Mask tile [M, M] and box of a region, mirrored and damaged as planned."""
    mask, box = cells(region, vision), region.box_norm
    if flip:
        mask, box = mask[:, ::-1], np.array([1 - box[2], box[1], 1 - box[0], box[3]], np.float32)
    if seed != _CLEAN:
        mask = make_noisy_mask(np.ascontiguousarray(mask), np.random.default_rng(seed))
        box = compute_box_norm(mask)
    return mask.astype(np.float32), box


def _load_fragment(region: Region, seed: int, flip: bool, vision: VisionConfig) -> tuple[F32, F32]:  # noqa: FBT001
    """Mask tile [M, M] and box of a fragment of a region."""
    mask = fragment_of(cells(region, vision), np.random.default_rng(seed))
    mask = np.ascontiguousarray(mask[:, ::-1] if flip else mask)
    return mask.astype(np.float32), compute_box_norm(mask)


def _make_batches(groups: list[Group], size: int) -> list[list[Group]]:
    """Batch groups of one shape, with similar lengths together within a window.

    A last incomplete batch of a shape is left out, unless it would be the only one.
    """
    shapes: dict[tuple[int, int, int, bool], list[Group]] = defaultdict(list)
    for group in groups:
        shapes[group.shape].append(group)
    batches: list[list[Group]] = []
    for alike in shapes.values():
        for start in range(0, len(alike), size * _SORT_WINDOW):
            window = sorted(alike[start : start + size * _SORT_WINDOW], key=lambda g: g.length)
            batches += [window[i : i + size] for i in range(0, len(window) - size + 1, size)]
    return batches or [max(shapes.values(), key=len)]
