"""Figures of answers: choices, masks, "not there", each with its number and a 95 % interval.

Definitions as in the field (never mixed across tables): mIoU, the mean over texts that mean
something; oIoU (cIoU), the sum of intersections over the sum of unions; gIoU over all texts, where
a text that means nothing counts 1 if the answer is empty, else 0 (gRefCOCO, arXiv 2306.00968);
N-acc, the share of these that are answered by nothing; T-acc, the share of the others that are
answered by something; P@x, the share with an IoU of at least x. `ciou` is gRefCOCO's: wrong answers
to texts that mean nothing add to the unions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ureca.models.evaluation.res.answers import GroundingAnswer
from ureca.models.evaluation.res.cases import TYPES
from ureca.models.evaluation.res.intervals import area_under_curve, auc_interval, mean_interval

AT: Final = (0.5, 0.7, 0.9)
Json = dict[str, Any]


def figures(answers: Sequence[GroundingAnswer], *, seed: int) -> Json:
    """All figures of one column of answers."""
    found = summary(answers, seed=seed)
    absent = [a for a in answers if not a.case.targets]
    types = {name: [a for a in answers if a.case.type == name] for name in TYPES}
    found["by_type"] = {
        # Each type against all texts that mean nothing.
        name: summary([*some, *absent], seed=seed, masks=False)
        for name, some in types.items()
        if some
    }
    tags = sorted({tag for answer in answers for tag in answer.case.tags})
    found["by_tag"] = {
        tag: summary([a for a in answers if tag in a.case.tags], seed=seed) for tag in tags
    }
    protocols = {"part": types["part"], "obj_and_part": answers}
    found["protocols"] = {name: mask_figures(some) for name, some in protocols.items()}
    return found


def summary(answers: Sequence[GroundingAnswer], *, seed: int, masks: bool = True) -> Json:
    """Choice and presence of some answers. `n` counts texts that mean something in pictures with at
    least two candidates; `accuracy` is the share of them whose best candidate is a meant one.
    """
    chosen = [a for a in answers if a.case.targets and a.candidates > 1]
    found: Json = {
        "n": len(chosen),
        "pictures": len({a.image_key for a in answers}),
        **_mean_of("accuracy", chosen, lambda a: float(a.right), seed=seed),
        "chance": _mean([len(a.case.targets) / a.candidates for a in chosen]),
        "n_none": sum(not a.case.targets for a in answers),
        **_none_auc(answers, seed=seed),
    }
    judged = [a for a in answers if a.set_iou is not None]
    if judged and masks:
        found |= _mean_of("set_iou", judged, lambda a: a.set_iou or 0.0, seed=seed)
    found |= _against_bag(chosen, seed=seed)
    return found | (mask_figures(answers) if masks else {})


def _mean_of(
    name: str,
    answers: Sequence[GroundingAnswer],
    value: Callable[[GroundingAnswer], float],
    *,
    seed: int,
) -> Json:
    values = [value(answer) for answer in answers]
    interval = mean_interval([a.image_key for a in answers], values, seed=seed)
    return {name: _mean(values), f"{name}_interval": interval}


def _none_auc(answers: Sequence[GroundingAnswer], *, seed: int) -> Json:
    """How well P(none) tells texts that mean nothing from the others."""
    present = [a.present for a in answers]
    there = [bool(a.case.targets) for a in answers]
    pictures = [a.image_key for a in answers]
    return {
        "none_auc": area_under_curve(present, there),
        "none_auc_interval": auc_interval(pictures, present, there, seed=seed),
    }


def _against_bag(chosen: Sequence[GroundingAnswer], *, seed: int) -> Json:
    """The bag-of-words score alone, and the paired gain over it."""
    both = [a for a in chosen if a.bag_right is not None]
    if not both:
        return {}

    def gain(answer: GroundingAnswer) -> float:
        return float(answer.right) - float(bool(answer.bag_right))

    return {
        "bag_accuracy": _mean([float(bool(a.bag_right)) for a in both]),
        **_mean_of("gain_over_bag", both, gain, seed=seed),
    }


def mask_figures(answers: Sequence[GroundingAnswer]) -> Json:
    """Overlap of the answered pixels with the meant ones; None where nothing can be said."""
    there = [a for a in answers if a.case.targets]
    absent = [a for a in answers if not a.case.targets]
    ious = [0.0 if a.empty else a.iou for a in there]
    common = sum(0 if a.empty else a.intersection_px for a in there)
    union = sum(a.union_px for a in there)
    wrong = sum(a.union_px for a in absent if not a.empty)
    found: Json = {
        "n_masks": len(there),
        "n_empty": len(absent),
        "miou": _mean(ious),
        "oiou": common / union if union else None,
        "giou": _mean([*ious, *(float(a.empty) for a in absent)]),
        "ciou": common / (union + wrong) if union + wrong else None,
        "n_acc": _mean([float(a.empty) for a in absent]),
        "t_acc": _mean([float(not a.empty) for a in there]),
    }
    return found | {f"p@{at}": _mean([float(iou >= at) for iou in ious]) for at in AT}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
