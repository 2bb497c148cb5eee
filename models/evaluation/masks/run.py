"""One segmenter against true masks, picture by picture."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.bundle import MANIFEST_NAME
from ureca.datatypes import Image, Mask
from ureca.errors import ConfigError
from ureca.models.evaluation.masks.cases import MaskCase, get_kind
from ureca.models.evaluation.masks.measures import (
    compute_average_recall,
    compute_iou,
    compute_iou_matrix,
)
from ureca.models.evaluation.panoptic.matching import match_segments
from ureca.models.evaluation.panoptic.predicting import predict_segments
from ureca.models.evaluation.panoptic.quality import PanopticCounts, count_matches
from ureca.models.runtime.segmentation.base import (
    MaskPrediction,
    Segmenter,
    SegmenterPrompt,
    supports_panoptic,
)
from ureca.models.runtime.segmentation.bundled import open_mask_graphs
from ureca.models.runtime.segmentation.mask_head import MaskHeadSegmenter
from ureca.models.runtime.segmentation.mask_selection import find_innermost_pixel
from ureca.models.runtime.segmentation.sam2 import ENCODER, Sam2
from ureca.models.runtime.segmentation.tidy import tidy

_SMALL = 0.01
_TIDIED = ("click_chosen", "box")
_GRID, _MOST, _SAME = 8, 64, 0.7
Row = dict[str, float]


@dataclass(frozen=True, slots=True)
class RegionResult:
    """IoUs of one true mask by what was asked, and where it belongs in the tables."""

    source: str
    kind: str
    small: bool
    values: Row


@dataclass
class Results:
    """Everything measured, region by region and picture by picture."""

    regions: list[RegionResult] = field(default_factory=list)
    panoptic: dict[str, PanopticCounts] = field(default_factory=lambda: defaultdict(PanopticCounts))
    covered: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    filled: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def evaluate_picture(
    segmenter: Segmenter, image: Image, case: MaskCase, results: Results, *, with_tidy: bool
) -> None:
    """Clicks, boxes, everything and panoptic of one picture, added to `results`."""
    encoded = segmenter.encode(image)
    truths = [case.mask(record) for record in case.records]
    rows = [_prompt(segmenter, encoded, image, mask, with_tidy=with_tidy) for mask in truths]
    everything = find_everything(segmenter, encoded, case.size)
    masks = [answer.mask(case.size) for answer in everything]
    best = compute_iou_matrix(truths, masks).max(1, initial=0.0)
    source = case.records[0].source
    for record, mask, row, found in zip(case.records, truths, rows, best, strict=True):
        small = bool(mask.mean() < _SMALL)
        values = {**row, "everything": float(found)}
        results.regions.append(RegionResult(source, get_kind(record), small, values))
    covered = np.logical_or.reduce(masks).mean() if masks else 0.0
    results.covered[source].append(float(covered))
    truth = case.panoptic_truth()
    if truth is not None and supports_panoptic(segmenter):
        found = predict_segments(segmenter, encoded, case.size)
        results.panoptic[source] += count_matches(match_segments(truth, found))
        results.filled[source].append(found.coverage)


def _prompt(
    segmenter: Segmenter, encoded: Any, image: Image, truth: Mask, *, with_tidy: bool
) -> Row:
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    box = (
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] + 1),
        float(rows[-1] + 1),
    )
    prompts = [
        SegmenterPrompt(points_xy_px=(find_innermost_pixel(truth),)),
        SegmenterPrompt(box_xyxy_px=box),
    ]
    clicked, boxed = segmenter.segment(encoded, prompts)
    chosen, first = _pick_surest(clicked), boxed[0]
    size = truth.shape[0], truth.shape[1]
    row = {
        "click": max(compute_iou(answer.mask(size), truth) for answer in clicked),
        "click_chosen": compute_iou(chosen.mask(size), truth),
        "box": compute_iou(first.mask(size), truth),
    }
    if with_tidy:
        row["click_tidy"] = compute_iou(tidy(image, chosen.soft(size)), truth)
        row["box_tidy"] = compute_iou(tidy(image, first.soft(size), box_xyxy_px=box), truth)
    return row


def _pick_surest(answers: Iterable[MaskPrediction]) -> MaskPrediction:
    return max(answers, key=lambda answer: answer.score)


def find_everything(
    segmenter: Segmenter, encoded: Any, size: tuple[int, int]
) -> list[MaskPrediction]:
    """At most 64 masks of a picture: the segmenter's own way, or a grid of 8 x 8 clicks, the surest
    first, without those that repeat one (IoU .7).
    """
    own: Callable[[Any], list[MaskPrediction]] | None = getattr(segmenter, "everything", None)
    if own is not None:
        return own(encoded)
    steps = (np.arange(_GRID) + 0.5) / _GRID
    points = [(float(x * size[1]), float(y * size[0])) for y in steps for x in steps]
    prompts = [SegmenterPrompt(points_xy_px=(point,)) for point in points]
    answers = [a for row in segmenter.segment(encoded, prompts) for a in row]
    answers.sort(key=lambda answer: -answer.score * answer.stability)
    kept: list[MaskPrediction] = []
    flat: list[npt.NDArray[np.bool_]] = []
    for answer in answers:
        inside = answer.logits > 0
        if inside.any() and all(compute_iou(inside, other) < _SAME for other in flat):
            kept.append(answer)
            flat.append(inside)
    return kept[:_MOST]


# --- tables --------------------------------------------------------------------------------------


def summarise(results: Results) -> dict[str, Any]:
    """The figures of a run: of all regions, and by source and kind."""
    return {
        **_summarise_rows(results.regions),
        "by_source": {
            f"{source} {kind}": _summarise_rows(rows)
            for (source, kind), rows in sorted(_group_by(results.regions, "source", "kind").items())
        },
        "by_size": {
            f"{source} {'under' if small else 'over'} 1 %": _summarise_rows(rows)
            for (source, small), rows in sorted(
                _group_by(results.regions, "source", "small").items()
            )
        },
        "panoptic_quality": {k: _round(v.quality) for k, v in results.panoptic.items()},
        "panoptic_filled": {k: _round(float(np.mean(v))) for k, v in results.filled.items()},
        "coverage": {k: _round(float(np.mean(v))) for k, v in results.covered.items()},
    }


def _group_by(
    rows: Sequence[RegionResult], *names: str
) -> dict[tuple[Any, ...], list[RegionResult]]:
    found: dict[tuple[Any, ...], list[RegionResult]] = defaultdict(list)
    for row in rows:
        found[tuple(getattr(row, name) for name in names)].append(row)
    return found


def _summarise_rows(rows: Sequence[RegionResult]) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        return _round(float(np.mean([row.values.get(name, math.nan) for row in rows])))

    best = [row.values["everything"] for row in rows]
    return {
        "n": len(rows),
        "click_iou": mean("click"),
        "click_chosen_iou": mean("click_chosen"),
        "click_tidy_iou": mean("click_tidy"),
        "box_iou": mean("box"),
        "box_tidy_iou": mean("box_tidy"),
        "everything_recall_50": _round(float(np.mean([value >= 0.5 for value in best]))),
        "everything_ar": _round(compute_average_recall(best)),
    }


def _round(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def open_segmenter(
    folder: Path,
    *,
    trunk_weights: str = "",
    proposals: bool = True,
    canvas_px: tuple[int, int] | None = None,
    threads: int = 1,
) -> Segmenter:
    """A bundle with a mask head (ONNX Runtime), a checkpoint of one (torch), or the folder of SAM
    2's graphs. Raises `ConfigError`, and `WeightsError` for a bundle without a mask head.

    Of a mask head: whether it uses its detector's boxes, and, of a checkpoint, another canvas
    (height, width).
    """
    if (folder / ENCODER).is_file():
        return Sam2(folder, threads=threads)
    if (folder / MANIFEST_NAME).is_file():
        if canvas_px is not None:
            raise ConfigError("a bundle has one canvas: give a checkpoint to try another one")
        return MaskHeadSegmenter(open_mask_graphs(folder, threads=threads), proposals=proposals)
    if (folder / "config.json").is_file():
        return _open_checkpoint(
            folder,
            trunk_weights=trunk_weights,
            proposals=proposals,
            canvas_px=canvas_px,
            threads=threads,
        )
    raise ConfigError(
        f"{folder} holds neither a bundle ({MANIFEST_NAME}), nor a checkpoint of a mask head "
        f"(config.json), nor SAM 2 ({ENCODER})"
    )


def _open_checkpoint(
    folder: Path,
    *,
    trunk_weights: str,
    proposals: bool,
    canvas_px: tuple[int, int] | None,
    threads: int,
) -> Segmenter:
    """The network itself; torch is loaded only here."""
    import torch

    from ureca.models.nano.masks.checkpoint import load_mask_checkpoint
    from ureca.models.nano.masks.graphs import TorchMaskGraphs

    torch.set_num_threads(threads)
    model = load_mask_checkpoint(folder, trunk_weights=trunk_weights)
    if canvas_px is not None:
        model.config = replace(model.config, canvas_px=canvas_px)
    return MaskHeadSegmenter(TorchMaskGraphs(model), proposals=proposals)
