"""The mask head as a `Segmenter`: what is asked becomes kernels, kernels become masks.

Plain numpy over three graphs (`MaskGraphs`), which torch or ONNX Runtime runs. Coordinates of the
graphs are pixels of the canvas, those of prompts pixels of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image
from ureca.models.runtime.segmentation import mask_selection as selection
from ureca.models.runtime.segmentation.base import F32, MaskPrediction, SegmenterPrompt
from ureca.models.runtime.segmentation.canvas import Placement, make_canvas_pixels
from ureca.models.runtime.segmentation.panoptic.features import describe_candidates
from ureca.models.runtime.segmentation.panoptic.scorer import load_scorer_weights, score_candidates
from ureca.models.runtime.segmentation.panoptic.segments import (
    PanopticMap,
    SegmentKind,
    make_panoptic_map,
)
from ureca.models.runtime.segmentation.panoptic.selection import choose_segments, paint_segments

MAP_STRIDE, GRID_STRIDE = 4, 16
POSITION_TERMS = 5
"""Numbers of a kernel behind its C weights of the map."""
OUTSIDE = -8.0
"""Logit outside a box and its margin."""
BOX_MARGIN = 0.06
_PROPOSALS, _BOX_OVERLAP = 30, 0.65
_STUFF = 0.5
_NO_POINTS, _NO_BOXES = np.zeros((0, 2), np.float32), np.zeros((0, 4), np.float32)
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class HeadMaps:
    """One pass over a canvas H x W.

    `map` f32 [1, C, H/4, W/4], `cells` [1, D, H/8, W/8], `context` [1, D, H/16, W/16]; of a grid of
    points 16 px apart `kernels` [H/16, W/16, 3, C + 5] and `scores` [H/16, W/16, 3] (IoUs 0..1);
    `boxes_px` [N, 4] that the trunk detects (N may be 0) with `box_scores` [N].
    """

    map: F32
    cells: F32
    context: F32
    kernels: F32
    scores: F32
    boxes_px: F32
    box_scores: F32


class MaskGraphs(Protocol):
    """The network: whoever runs it."""

    @property
    def canvas_px(self) -> tuple[int, int]:
        """Height and width of the canvas."""

    def see(self, pixels: F32) -> HeadMaps:
        """Look at a canvas f32 [1, 3, H, W] (`canvas.py`)."""

    def make_kernels(
        self, maps: HeadMaps, points_px: F32, boxes_px: F32
    ) -> tuple[F32, F32, F32, F32]:
        """Of points [P, 2] kernels [P, 3, C + 5] and scores [P, 3], of boxes [B, 4] kernels
        [B, C + 5] and scores [B].
        """

    def draw(self, maps: HeadMaps, kernels: F32) -> F32:
        """Logits [K, H/4, W/4] of kernels [K, C + 5]."""


def make_head_maps(found: Sequence[F32], canvas_px: tuple[int, int]) -> HeadMaps:
    """What the graph `segment` gives (`mask_tensors.py`), in its order. Boxes may be missing."""
    masks, cells, context, kernels, scores, *detected = found
    boxes = detected[0][0] if detected else np.zeros((0, 5), np.float32)
    grid = canvas_px[0] // GRID_STRIDE, canvas_px[1] // GRID_STRIDE
    return HeadMaps(
        map=masks,
        cells=cells,
        context=context,
        kernels=kernels.reshape(*grid, selection.SLOTS, -1),
        scores=scores.reshape(*grid, selection.SLOTS),
        boxes_px=boxes[:, :4],
        box_scores=boxes[:, 4],
    )


@dataclass(frozen=True, slots=True)
class LookedImage:
    """One pass over one image, and where the image lies on the canvas."""

    where: Placement
    maps: HeadMaps


class MaskHeadSegmenter:
    """A `Segmenter` that also says everything that is in the image."""

    name = "nano"

    def __init__(self, graphs: MaskGraphs, *, proposals: bool = True) -> None:
        """`proposals`: use the boxes of a trunk that detects."""
        self._graphs, self._proposals = graphs, proposals

    def encode(self, image: Image) -> LookedImage:
        """See `Segmenter`."""
        pixels, where = make_canvas_pixels(image, self._graphs.canvas_px)
        return LookedImage(where, self._graphs.see(pixels[None]))

    def features(self, encoded: LookedImage) -> F32:
        """See `Segmenter`: `cells` of the part of the canvas that is the image."""
        return encoded.where.cropped(encoded.maps.cells[0])

    def segment(
        self, encoded: LookedImage, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """See `Segmenter`. A click gives part, thing and whole; a box the box's own mask first."""
        if not prompts:
            return []
        places = [_place(encoded, prompt) for prompt in prompts]
        kernels, scores = self._make_kernels(encoded, places)
        logits = self._graphs.draw(encoded.maps, np.concatenate(kernels))
        ends = np.cumsum([len(rows) for rows in scores])
        rows = zip(prompts, places, np.split(logits, ends[:-1]), scores, strict=True)
        return [_answer(encoded, *row) for row in rows]

    def everything(self, encoded: LookedImage) -> list[MaskPrediction]:
        """What is in the image, best first: at most 64 masks, nested ones too, none empty."""
        taken = self._choose(encoded)
        logits = self._graphs.draw(encoded.maps, taken.kernels)
        found = _make_predictions(encoded, logits, taken.scores)
        return [one for one in found if (one.logits > 0).any()]

    def candidates(self, encoded: LookedImage) -> list[MaskPrediction]:
        """See `CandidateSegmenter`."""
        logits, features = self.describe_everything(encoded)
        return [
            MaskPrediction(*row) for row in zip(logits, features["score"].tolist(), strict=True)
        ]

    def panoptic(self, encoded: LookedImage, size: tuple[int, int]) -> PanopticMap:
        """See `PanopticSegmenter`."""
        logits, features = self.describe_everything(encoded)
        worth, stuff = score_candidates(features, load_scorer_weights())
        rows = choose_segments(logits, worth)
        kinds: list[SegmentKind] = ["stuff" if stuff[row] > _STUFF else "thing" for row in rows]
        found = list(zip(kinds, worth[rows].tolist(), strict=True))
        return make_panoptic_map(paint_segments(logits[rows], size), found)

    def describe_everything(self, encoded: LookedImage) -> tuple[F32, dict[str, F32]]:
        """All that may be a segment: logits [N, h, w] over the image, and features [N] by name."""
        candidates = self._list_candidates(encoded)
        logits = encoded.where.cropped(self._graphs.draw(encoded.maps, candidates.kernels))
        return logits, describe_candidates(_pool(logits, 2), candidates)

    def find_proposals(self, encoded: LookedImage) -> tuple[F32, F32]:
        """The trunk's best boxes f32 [N, 4] on the canvas after NMS, and their scores [N]."""
        boxes, scores = encoded.maps.boxes_px, encoded.maps.box_scores
        rows = selection.apply_box_nms(boxes, scores, overlap=_BOX_OVERLAP, most=_PROPOSALS)
        return boxes[rows], scores[rows]

    def stop(self) -> None:
        """See `Segmenter`: its calls are short."""

    def _choose(self, encoded: LookedImage) -> selection.Candidates:
        candidates = self._list_candidates(encoded)
        drawn = self._graphs.draw(encoded.maps, candidates.kernels)
        logits = _pool(drawn, GRID_STRIDE // MAP_STRIDE).reshape(len(drawn), -1)
        logits[:, _find_margin(encoded.where)] = OUTSIDE
        chosen = selection.choose_everything(candidates, logits)
        return candidates.taken(chosen)

    def _list_candidates(self, encoded: LookedImage) -> selection.Candidates:
        """Kernels of the grid of points, and of the trunk's boxes as things."""
        maps = encoded.maps
        found = selection.pick_best_of_cells(maps.kernels, maps.scores)
        if not self._proposals or not len(maps.boxes_px):
            return found
        boxes, box_scores = self.find_proposals(encoded)
        _, _, kernels, scores = self._graphs.make_kernels(maps, _NO_POINTS, boxes)
        return selection.Candidates(
            np.concatenate((kernels, found.kernels)),
            np.concatenate((scores * np.sqrt(box_scores), found.scores)),
            np.concatenate((np.ones(len(kernels), np.int64), found.slots)),
            np.concatenate((box_scores, found.detected)),
        )

    def _make_kernels(
        self, encoded: LookedImage, places: Sequence[PromptPlace]
    ) -> tuple[list[F32], list[F32]]:
        """Kernels [n, C + 5] and scores [n] of each prompt: that of its box first, then three of
        each point. One call for all of them.
        """
        points = np.concatenate([place.points_px for place in places])
        boxes = np.concatenate([place.boxes_px for place in places])
        found = self._graphs.make_kernels(encoded.maps, points, boxes)
        kernels, scores = [], []
        point = box = 0
        for place in places:
            at = slice(point, point + len(place.points_px))
            of = slice(box, box + len(place.boxes_px))
            point, box = at.stop, of.stop
            own = found[0][at].reshape(-1, found[0].shape[-1])
            kernels.append(np.concatenate((found[2][of], own)))
            scores.append(np.concatenate((found[3][of], found[1][at].reshape(-1))))
        return kernels, scores


@dataclass(frozen=True, slots=True)
class PromptPlace:
    """A prompt on the canvas: its points f32 [P, 2], or its box f32 [1, 4] (else [0, 4]) and the
    middle of it as the only point.
    """

    points_px: F32
    boxes_px: F32


def _place(encoded: LookedImage, prompt: SegmenterPrompt) -> PromptPlace:
    box = prompt.box_xyxy_px
    if box is None and not prompt.points_xy_px:
        assert prompt.soft is not None  # a prompt has one of the three
        box = _find_box(prompt.soft, encoded.where.size)
    scale = np.float32(encoded.where.scale)
    if box is None:
        return PromptPlace(np.array(prompt.points_xy_px, np.float32) * scale, _NO_BOXES)
    placed = np.array([box], np.float32) * scale
    return PromptPlace(np.asarray((placed[:, :2] + placed[:, 2:]) / 2, np.float32), placed)


def _answer(
    encoded: LookedImage, prompt: SegmenterPrompt, place: PromptPlace, logits: F32, scores: F32
) -> tuple[MaskPrediction, ...]:
    """Predictions of one prompt from the masks and scores of its kernels."""
    if len(place.boxes_px):
        cut = cut_at_box(logits[0], place.boxes_px[0])
        x0, y0, x1, y1 = (float(side) / MAP_STRIDE for side in place.boxes_px[0])
        fit = selection.compute_box_agreement(logits[1:], (x0, y0, x1, y1))
        logits = np.concatenate((cut[None], logits[1:]))
        scores = np.concatenate((scores[:1], scores[1:] * fit))
    answers = tuple(_make_predictions(encoded, logits, scores))
    if len(prompt.points_xy_px) > 1 or prompt.not_points_xy_px:
        return _weigh_by_clicks(answers, prompt, encoded.where.size)
    return answers


def cut_at_box(logits: F32, box_px: F32) -> F32:
    """Logits [h, w] with `OUTSIDE` beyond a box xyxy on the canvas and 6 % of its sides."""
    margin = (box_px[2:] - box_px[:2]) * BOX_MARGIN + MAP_STRIDE / 2
    low, high = box_px[:2] - margin, box_px[2:] + margin
    x = (np.arange(logits.shape[1]) + 0.5) * MAP_STRIDE
    y = (np.arange(logits.shape[0]) + 0.5) * MAP_STRIDE
    across, down = (x >= low[0]) & (x <= high[0]), (y >= low[1]) & (y <= high[1])
    return np.asarray(np.where(down[:, None] & across, logits, OUTSIDE), np.float32)


def _pool(logits: F32, step: int) -> F32:
    """Means over step x step cells: [K, h, w] -> [K, h / step, w / step], rounded down."""
    height, width = (side // step * step for side in logits.shape[1:])
    logits = logits[:, :height, :width]
    down = logits[:, ::step].copy()  # slices add up faster than a mean over short axes
    for first in range(1, step):
        down += logits[:, first::step]
    total = down[:, :, ::step].copy()
    for first in range(1, step):
        total += down[:, :, first::step]
    total *= np.float32(1 / step**2)
    return np.asarray(total)


def _find_margin(where: Placement) -> npt.NDArray[np.bool_]:
    """Points bool [H/16 W/16] of the grid that lie on the grey margin of the canvas. Masks there
    are of nothing, and would take the places of masks in the image.
    """
    y, x = (
        np.arange(GRID_STRIDE / 2, side, GRID_STRIDE) >= max(filled, GRID_STRIDE)
        for side, filled in zip(where.canvas, where.filled, strict=True)
    )
    return np.asarray(y[:, None] | x, np.bool_).ravel()


def _make_predictions(encoded: LookedImage, logits: F32, scores: F32) -> list[MaskPrediction]:
    shown = encoded.where.cropped(logits)
    return [MaskPrediction(one, float(score)) for one, score in zip(shown, scores, strict=True)]


def _find_box(soft: F32, size: tuple[int, int]) -> Box:
    """Tight box xyxy, in pixels of an image of `size`, of a soft mask of any resolution."""
    inside = soft > 0.5 if (soft > 0.5).any() else soft >= soft.max()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    y, x = size[0] / soft.shape[0], size[1] / soft.shape[1]
    return columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y


def _weigh_by_clicks(
    answers: Sequence[MaskPrediction], prompt: SegmenterPrompt, size: tuple[int, int]
) -> tuple[MaskPrediction, ...]:
    """Answers with lower scores for every click on the wrong side of their outline, best first."""

    def is_inside(answer: MaskPrediction, point: tuple[float, float]) -> bool:
        height, width = answer.logits.shape
        row = min(height - 1, max(0, int(point[1] * height / size[0])))
        column = min(width - 1, max(0, int(point[0] * width / size[1])))
        return bool(answer.logits[row, column] > 0)

    def weigh(answer: MaskPrediction) -> MaskPrediction:
        wrong = sum(not is_inside(answer, point) for point in prompt.points_xy_px)
        wrong += sum(is_inside(answer, point) for point in prompt.not_points_xy_px)
        return MaskPrediction(answer.logits, answer.score * 0.5**wrong)

    return tuple(sorted(map(weigh, answers), key=lambda answer: -answer.score))
