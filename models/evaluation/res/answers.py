"""What is answered: a picture's texts put to a grounder, and each answer measured.

A grounder either says where, or that nothing is meant. To know also where it would look if it had
to say something, it is asked a second time with the threshold for "not there" at zero; the scores
are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ureca.datatypes import Image, Mask, RegionInput, Rle
from ureca.engine import EncodedFrame, ScoringEngine
from ureca.errors import RegionError, SourceError
from ureca.models.data.regions import RegionRecord
from ureca.models.evaluation.res.cases import GroundingCase, GroundingPicture
from ureca.models.runtime.grounding import Candidate, GroundingResult
from ureca.protocol import rle


class GrounderUnderTest(Protocol):
    """What finds regions for texts: `models.runtime.grounding.Grounder`, or one of a test."""

    def find(
        self, frame: EncodedFrame, candidates: Sequence[Candidate], texts: Sequence[str]
    ) -> list[GroundingResult]:
        """One result for each text; no regions: not there."""


@dataclass(frozen=True, slots=True)
class Grounders:
    """The same grounder twice: as it decides, and with "not there" switched off."""

    deciding: GrounderUnderTest
    forced: GrounderUnderTest


@dataclass(frozen=True, slots=True)
class GroundingAnswer:
    """One text's answer, as far as figures need it.

    `intersection_px` and `union_px` compare the union of the answered masks with that of the meant
    ones; `set_iou` compares sets of given candidates (None: the candidates are not given).
    `right`: the best candidate is a meant one (of a segmenter's: IoU of at least .5). `present` is
    1 - P(none). `bag_right`: `right`, had the bag-of-words score decided alone.
    """

    image_key: str
    case: GroundingCase
    candidates: int
    empty: bool
    present: float
    right: bool
    intersection_px: int
    union_px: int
    set_iou: float | None = None
    bag_right: bool | None = None

    @property
    def iou(self) -> float:
        """Of the masks; 0 where both are empty (that is what `empty` is for)."""
        return self.intersection_px / self.union_px if self.union_px else 0.0


@dataclass(frozen=True, slots=True)
class ViewedPicture:
    """A picture that was read and encoded, with the true masks bool [H, W] of its regions."""

    picture: GroundingPicture
    image: Image
    frame: EncodedFrame
    masks: tuple[Mask, ...]

    def truth(self, case: GroundingCase) -> Mask:
        """The union of the meant masks, bool [H, W]."""
        return _union([self.masks[place] for place in case.targets], self.image)


def view(picture: GroundingPicture, image: Image, frame: EncodedFrame) -> ViewedPicture:
    """Decode the masks. Raises `SourceError` for one that does not fit the picture."""
    masks = tuple(_mask(record) for record in picture.regions)
    for record, mask in zip(picture.regions, masks, strict=True):
        if mask.shape != image.shape[:2]:
            raise SourceError(
                f"region {record.region_id!r}: its mask is {mask.shape[1]}x{mask.shape[0]}, the "
                f"picture {image.shape[1]}x{image.shape[0]}; check the folder: ureca data check"
            )
    return ViewedPicture(picture, image, frame, masks)


def _mask(record: RegionRecord) -> Mask:
    try:
        return rle.decode(Rle((record.height, record.width), record.counts))
    except RegionError as error:
        raise SourceError(f"region {record.region_id!r}: {error}") from error


def _union(masks: Sequence[Mask], image: Image) -> Mask:
    found = np.zeros(image.shape[:2], np.bool_)
    for mask in masks:
        found |= mask
    return found


def answer_given(seen: ViewedPicture, grounders: Grounders) -> Iterator[GroundingAnswer]:
    """All texts of a picture, its own regions being the candidates."""
    candidates = [
        Candidate(mask, key=record.region_id)
        for record, mask in zip(seen.picture.regions, seen.masks, strict=True)
    ]
    for case, decided, forced in _asked(seen, candidates, grounders):
        chosen = frozenset(found.index for found in decided.regions)
        first = forced.regions[0].index if forced.regions else None
        union = _union([seen.masks[place] for place in chosen], seen.image)
        whole = frozenset(found.index for found in forced.regions)
        yield _answer(
            seen,
            case,
            decided,
            union,
            candidates=len(candidates),
            right=first in case.targets or whole in case.accepted,
            set_iou=max(_set_iou(chosen, one) for one in case.accepted),
        )


def answer_from(
    seen: ViewedPicture, candidates: Sequence[Candidate], grounders: Grounders
) -> Iterator[GroundingAnswer]:
    """All texts of a picture, the masks of a segmenter being the candidates."""
    for case, decided, forced in _asked(seen, candidates, grounders):
        chosen = [candidates[found.index].mask for found in decided.regions]
        best = [candidates[found.index].mask for found in forced.regions[:1]]
        truths = [seen.masks[place] for place in case.targets]
        hit = any(mask_iou(mask, true) >= 0.5 for mask in best for true in truths)
        union = _union(chosen, seen.image)
        yield _answer(seen, case, decided, union, candidates=len(candidates), right=hit)


def answer_at_best(
    seen: ViewedPicture, candidates: Sequence[Candidate]
) -> Iterator[GroundingAnswer]:
    """What no grounder can beat with these candidates: for every meant region the nearest mask, and
    "not there" only where it is true.
    """
    for case in seen.picture.cases:
        truths = [seen.masks[place] for place in case.targets]
        nearest = [_nearest(candidates, true) for true in truths if candidates]
        pairs = zip(nearest, truths, strict=False)
        hit = any(mask_iou(mask, true) >= 0.5 for mask, true in pairs)
        result = GroundingResult(case.text, 0.0 if truths else 1.0, ())
        union = _union(nearest, seen.image)
        yield _answer(
            seen, case, result, union, candidates=len(candidates), right=hit, empty=not nearest
        )


def _nearest(candidates: Sequence[Candidate], true: Mask) -> Mask:
    return max((one.mask for one in candidates), key=lambda mask: mask_iou(mask, true))


def _asked(
    seen: ViewedPicture, candidates: Sequence[Candidate], grounders: Grounders
) -> Iterator[tuple[GroundingCase, GroundingResult, GroundingResult]]:
    texts = list(dict.fromkeys(case.text for case in seen.picture.cases))
    if not candidates or not texts:
        nothing = {text: GroundingResult(text, 1.0, ()) for text in texts}
        yield from ((case, nothing[case.text], nothing[case.text]) for case in seen.picture.cases)
        return
    decided = dict(zip(texts, grounders.deciding.find(seen.frame, candidates, texts), strict=True))
    forced = dict(zip(texts, grounders.forced.find(seen.frame, candidates, texts), strict=True))
    yield from ((case, decided[case.text], forced[case.text]) for case in seen.picture.cases)


def _answer(
    seen: ViewedPicture,
    case: GroundingCase,
    decided: GroundingResult,
    union: Mask,
    *,
    candidates: int,
    right: bool,
    set_iou: float | None = None,
    empty: bool | None = None,
) -> GroundingAnswer:
    truth = seen.truth(case)
    return GroundingAnswer(
        image_key=seen.picture.image_key,
        case=case,
        candidates=candidates,
        empty=not decided.regions if empty is None else empty,
        present=1.0 - decided.none_probability,
        right=right,
        intersection_px=int(np.count_nonzero(union & truth)),
        union_px=int(np.count_nonzero(union | truth)),
        set_iou=set_iou,
    )


def _set_iou(chosen: frozenset[int], meant: frozenset[int]) -> float:
    """Of two sets; 1 where both are empty."""
    return len(chosen & meant) / len(chosen | meant) if chosen | meant else 1.0


def mask_iou(one: Mask, other: Mask) -> float:
    """Of two masks bool [H, W]; 0 where both are empty."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 0.0


def bag_choices(engine: ScoringEngine, seen: ViewedPicture) -> list[bool | None]:
    """For each case whether the bag-of-words score alone would be right; None without a target."""
    regions = [RegionInput(mask) for mask in seen.masks]
    texts = list(dict.fromkeys(case.text for case in seen.picture.cases))
    scores = engine.score(seen.frame, regions, texts, max_fit=0)
    best = {text: int(np.argmax(row)) for text, row in zip(texts, scores.bag, strict=True)}
    return [
        best[case.text] in case.targets if case.targets else None for case in seen.picture.cases
    ]
