"""Compares the mask head's graphs with its network in torch: masks of clicks, boxes, everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ureca.datatypes import Mask, Rle
from ureca.export.parity.masks_report import MaskAgreement, MaskRow
from ureca.export.parity.parity_inputs import F32, ParityCase
from ureca.models.evaluation.masks.measures import compute_iou_matrix
from ureca.models.nano.masks.graphs import TorchMaskGraphs
from ureca.models.nano.masks.network import MaskNetwork
from ureca.models.runtime.segmentation.base import MaskPrediction, SegmenterPrompt
from ureca.models.runtime.segmentation.mask_head import MaskGraphs, MaskHeadSegmenter
from ureca.models.runtime.segmentation.mask_selection import find_innermost_pixel
from ureca.models.runtime.self_test import GOLDEN_PICTURE, read_picture, read_regions
from ureca.protocol import rle

_GOLDEN = Path(__file__).parents[1] / "golden"
_CONTROL_SEED = 20_250_405
_CONTROL_PICTURES = 4


@dataclass(frozen=True, slots=True)
class _Answers:
    """Of one picture: the answers to every click, to every box, and everything."""

    clicks: list[MaskPrediction]
    boxes: list[MaskPrediction]
    everything: list[MaskPrediction]


class MaskReference:
    """What the network says in torch of the pictures, and the comparison of others with it."""

    def __init__(self, model: MaskNetwork, cases: Sequence[ParityCase]) -> None:
        self._model, self._cases = model, cases
        graphs = TorchMaskGraphs(model)
        self._expected = [_ask(graphs, case) for case in cases]

    def compare(self, graphs: MaskGraphs, *, pictures: int | None = None) -> MaskAgreement:
        """Agreement of `graphs` with the network, over the first `pictures` (default: all)."""
        found = [_ask(graphs, case) for case in self._cases[:pictures]]
        return _measure(self._expected[: len(found)], found)

    def compare_control(self) -> MaskAgreement:
        """The same comparison with weights of another seed. It must fail."""
        with torch.random.fork_rng():
            torch.manual_seed(_CONTROL_SEED)
            other = MaskNetwork(self._model.config)
        return self.compare(TorchMaskGraphs(other), pictures=_CONTROL_PICTURES)


def make_golden_case() -> ParityCase:
    """The picture of the self-test with its regions, for machines without the data folder."""
    regions = read_regions(_GOLDEN / "regions.json")
    masks = tuple(rle.decode(Rle(region.size, region.counts)) for region in regions)
    styles = tuple(region.style for region in regions)
    return ParityCase(read_picture(_GOLDEN / GOLDEN_PICTURE), masks, styles, ((),) * len(masks))


def _ask(graphs: MaskGraphs, case: ParityCase) -> _Answers:
    segmenter = MaskHeadSegmenter(graphs)
    encoded = segmenter.encode(case.image)
    masks = [mask for mask in case.masks if mask.any()]
    clicks = [SegmenterPrompt(points_xy_px=(find_innermost_pixel(mask),)) for mask in masks]
    boxes = [SegmenterPrompt(box_xyxy_px=_find_tight_box(mask)) for mask in masks]
    return _Answers(
        clicks=[answer for row in segmenter.segment(encoded, clicks) for answer in row],
        boxes=[answer for row in segmenter.segment(encoded, boxes) for answer in row],
        everything=segmenter.everything(encoded),
    )


def _find_tight_box(mask: Mask) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _measure(expected: Sequence[_Answers], found: Sequence[_Answers]) -> MaskAgreement:
    pairs = list(zip(expected, found, strict=True))
    clicks = [both for a, b in pairs for both in zip(a.clicks, b.clicks, strict=True)]
    boxes = [both for a, b in pairs for both in zip(a.boxes, b.boxes, strict=True)]
    everything = [_match(a.everything, b.everything) for a, b in pairs]
    return MaskAgreement(
        pictures=len(pairs),
        click=_make_row(np.array([_compute_iou(*both) for both in clicks])),
        box=_make_row(np.array([_compute_iou(*both) for both in boxes])),
        everything=_make_row(np.concatenate([np.zeros(0), *everything])),
        max_abs_score_diff=float(
            np.max([abs(one.score - other.score) for one, other in (*clicks, *boxes)], initial=0.0)
        ),
    )


def _make_row(values: F32) -> MaskRow:
    if not len(values):
        return MaskRow(0, 0.0, 0.0)
    return MaskRow(len(values), float(values.mean()), float(values.min()))


def _compute_iou(one: MaskPrediction, other: MaskPrediction) -> float:
    """IoU of two masks at the resolution of their logits; 1 if both are empty."""
    ours, theirs = one.logits > 0, other.logits > 0
    either = np.count_nonzero(ours | theirs)
    return float(np.count_nonzero(ours & theirs) / either) if either else 1.0


def _match(ours: Sequence[MaskPrediction], theirs: Sequence[MaskPrediction]) -> F32:
    """Of each of our masks that is not empty, its IoU with the most similar one of theirs."""
    masks = ([answer.logits > 0 for answer in side] for side in (ours, theirs))
    sides = [[mask for mask in side if mask.any()] for side in masks]
    return np.asarray(compute_iou_matrix(*sides).max(1, initial=0.0), np.float32)
