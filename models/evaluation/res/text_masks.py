"""Answers of a model that turns texts into masks by itself (`ureca mllm unires`): no candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ureca.datatypes import Image, Mask
from ureca.models.evaluation.res.answers import GroundingAnswer, ViewedPicture, mask_iou
from ureca.models.evaluation.res.cases import GroundingCase
from ureca.models.evaluation.res.options import CandidateSource, ResOptions
from ureca.models.runtime.segmentation.open_checkpoints import TextMasks, TextSegmenter


@dataclass(frozen=True)
class TextMaskRig:
    """A text segmenter in the place of engine and grounders."""

    segmenter: TextSegmenter

    def encode(self, image: Image) -> Any:
        """Encode a picture."""
        return self.segmenter.encode(image)

    def columns(
        self, seen: ViewedPicture, options: ResOptions
    ) -> Iterator[tuple[CandidateSource, list[GroundingAnswer]]]:
        """The only column: the model's own masks."""
        del options
        yield "own", list(answer_own(seen, self.segmenter))

    def describe(self) -> dict[str, Any]:
        """What was evaluated."""
        info = self.segmenter.info
        return {"model": info.model, "runtime": info.runtime, "bundle_sha": info.bundle_sha}


def answer_own(seen: ViewedPicture, segmenter: TextSegmenter) -> Iterator[GroundingAnswer]:
    """All texts of a picture, asked twice: as the model decides, and with "not there" off. The
    first mask is right where its IoU with a meant region is at least .5.
    """
    texts = list(dict.fromkeys(case.text for case in seen.picture.cases))
    decided = dict(zip(texts, segmenter.find_masks(seen.frame, texts), strict=True))
    forced = segmenter.find_masks(seen.frame, texts, min_present=0.0)
    by_text = dict(zip(texts, forced, strict=True))
    for case in seen.picture.cases:
        yield _make_answer(seen, case, decided[case.text], by_text[case.text])


def _make_answer(
    seen: ViewedPicture, case: GroundingCase, decided: TextMasks, forced: TextMasks
) -> GroundingAnswer:
    truth, union = seen.truth(case), _join(decided, seen.image)
    first = [found.mask for found in forced.masks[:1]]
    truths = [seen.masks[place] for place in case.targets]
    return GroundingAnswer(
        image_key=seen.picture.image_key,
        case=case,
        candidates=len(seen.masks),
        empty=not decided.masks,
        present=1.0 - decided.none_probability,
        right=any(mask_iou(mask, true) >= 0.5 for mask in first for true in truths),
        intersection_px=int(np.count_nonzero(union & truth)),
        union_px=int(np.count_nonzero(union | truth)),
    )


def _join(found: TextMasks, image: Image) -> Mask:
    union = np.zeros(image.shape[:2], np.bool_)
    for one in found.masks:
        union |= one.mask
    return union
