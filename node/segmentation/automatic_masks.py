"""Segments everything in an image: the reliable masks, each thing once.

A segmenter that can say everything in one pass is asked for that, others on a grid of points, as
SAM's automatic mask generator does. Masks are compared at the resolution of their logits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ureca.datatypes import Mask
from ureca.models.runtime.segmentation.base import (
    EncodedImage,
    MaskPrediction,
    Segmenter,
    SegmenterPrompt,
    supports_candidates,
    supports_everything,
)
from ureca.models.runtime.segmentation.panoptic.find_parts import RULES_FOR_TEXTS, choose_parts
from ureca.node.masks.geometry import iou
from ureca.node.segmenter_config import MaskThresholds, SegmenterConfig


@dataclass(frozen=True, slots=True)
class AutomaticMask:
    """One thing: its prediction, its mask bool [h, w] at the resolution of the logits, the share
    0..1 of the picture that it covers, and how sure it is: score times stability.
    """

    prediction: MaskPrediction
    cells: Mask
    share: float
    sureness: float


@dataclass(frozen=True, slots=True)
class AutomaticMasks:
    """The things of an image, surest first, and, if they are asked for, `parts` of these.
    `left_out` counts what was not taken, by the setting that says so.
    """

    things: list[AutomaticMask]
    left_out: Counter[str]
    parts: list[AutomaticMask] = field(default_factory=list)


def find_things(
    segmenter: Segmenter,
    encoded: EncodedImage,
    size: tuple[int, int],
    config: SegmenterConfig,
    *,
    known: Sequence[Mask] = (),
    for_texts: bool = False,
    with_parts: bool = False,
) -> AutomaticMasks:
    """The things of an image of `size` (height, width) that are not in `known`, masks bool of any
    size. `for_texts` adds, behind those, masks that are too unsure to be followed unasked.
    `with_parts` looks for parts of all of them, also of `known`, where the segmenter gives all of
    its masks: one more pass of it.
    """
    least = config.text_thresholds if for_texts else config.thresholds
    sure = [cut for cut in _ask(segmenter, encoded, size, config) if _reaches(cut, least)]
    sure.sort(key=lambda cut: (_reaches(cut, config.thresholds), _compute_sureness(cut)))
    sure.reverse()
    there = [_resized(mask, sure[0].logits.shape) for mask in known] if sure else []
    found, odd = AutomaticMasks([], Counter()), list[Mask]()
    for cut in sure:
        cells = np.asarray(cut.logits > 0, np.bool_)
        share = np.count_nonzero(cells) / cells.size
        limit = _name_limit(share, config)
        others = (*there, *(thing.cells for thing in found.things), *(odd if limit else ()))
        if not share or any(iou(cells, other) >= config.max_overlap for other in others):
            continue
        if limit is None:
            found.things.append(AutomaticMask(cut, cells, share, _compute_sureness(cut)))
        else:
            odd.append(cells)
            if _reaches(cut, config.thresholds):
                found.left_out[limit] += 1
    if with_parts and supports_candidates(segmenter):
        found.parts.extend(_find_parts(segmenter.candidates(encoded), found.things, known, config))
    return found


def _find_parts(
    predictions: Sequence[MaskPrediction],
    things: Sequence[AutomaticMask],
    known: Sequence[Mask],
    config: SegmenterConfig,
) -> Iterator[AutomaticMask]:
    """Masks inside things that are none of the things."""
    wholes = [*known, *(thing.cells for thing in things)]
    there = [thing.cells for thing in things]
    chosen = choose_parts(predictions, wholes, rules=RULES_FOR_TEXTS)
    for cut in (one for parts in chosen for one in parts):
        cells = np.asarray(cut.logits > 0, np.bool_)
        if all(iou(cells, other) < config.max_overlap for other in there):
            there.append(cells)
            share = np.count_nonzero(cells) / cells.size
            yield AutomaticMask(cut, cells, share, _compute_sureness(cut))


def generate_masks(
    segmenter: Segmenter,
    encoded: EncodedImage,
    size: tuple[int, int],
    config: SegmenterConfig,
    *,
    known: Sequence[Mask] = (),
    for_texts: bool = False,
    with_parts: bool = False,
) -> list[tuple[MaskPrediction, Mask]]:
    """`find_things` with their masks bool of `size`, parts last."""
    found = find_things(
        segmenter, encoded, size, config, known=known, for_texts=for_texts, with_parts=with_parts
    )
    both = (*found.things, *found.parts)
    return [(thing.prediction, thing.prediction.mask(size)) for thing in both]


def grid(size: tuple[int, int], points: int) -> list[SegmenterPrompt]:
    """`points` x `points` prompts in the middles of equal cells of a picture."""
    height, width = size
    ys, xs = ((np.arange(points) + 0.5) * side / points for side in (height, width))
    return [SegmenterPrompt(points_xy_px=((float(x), float(y)),)) for y in ys for x in xs]


def _ask(
    segmenter: Segmenter, encoded: EncodedImage, size: tuple[int, int], config: SegmenterConfig
) -> list[MaskPrediction]:
    if supports_everything(segmenter):
        return segmenter.everything(encoded)
    answers = segmenter.segment(encoded, grid(size, config.grid))
    return [cut for row in answers for cut in row]


def is_followed(thing: AutomaticMask, config: SegmenterConfig) -> bool:
    """Whether a thing is sure enough to be followed although nobody asked for it."""
    return _reaches(thing.prediction, config.thresholds)


def _reaches(cut: MaskPrediction, least: MaskThresholds) -> bool:
    return cut.score >= least.score and cut.stability >= least.stability


def _compute_sureness(cut: MaskPrediction) -> float:
    return cut.score * cut.stability


def _name_limit(share: float, config: SegmenterConfig) -> str | None:
    """The setting that a thing of this size does not keep to; None when it keeps to both."""
    if share < config.min_share:
        return "min_share"
    return "max_share" if share > config.max_share else None


def _resized(mask: Mask, size: tuple[int, ...]) -> Mask:
    soft = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(soft > 0.5, np.bool_)
