"""From a network's outputs to detections on its canvas, one function per layout.

Every function first chooses its rows by scores, so that masks are made only of what is kept.
Numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.errors import BundleError
from ureca.models.runtime.segmentation.base import F32
from ureca.models.runtime.segmentation.detectors.config import DetectorConfig
from ureca.models.runtime.segmentation.detectors.outputs import OutputRole

I64 = npt.NDArray[np.int64]
Outputs = Mapping[str, npt.NDArray[Any]]

OUTSIDE = -8.0
"""Logit where a mask surely is not."""
_LEAST_PROBABILITY = 1 / (1 + np.exp(8.0))
_MOST_BEFORE_NMS = 2048
_YOLOX_STRIDES = ((8, 16, 32), (8, 16, 32, 64))


@dataclass(frozen=True, slots=True)
class Detections:
    """N detections, best first: boxes f32 [N, 4] xyxy in pixels of the canvas, scores f32 [N] 0..1,
    class numbers i64 [N]; logits f32 [N, h, w] of masks over the canvas, None for boxes alone.
    """

    boxes: F32
    scores: F32
    labels: I64
    logits: F32 | None = None


@dataclass(frozen=True, slots=True)
class LayoutReader:
    """What a layout needs of the file, and what turns it into detections on a canvas of
    `canvas_px` (height, width).
    """

    roles: Mapping[str, OutputRole]
    read: Callable[[Outputs, DetectorConfig, tuple[int, int]], Detections]

    @property
    def makes_masks(self) -> bool:
        """Whether the layout has masks, and not boxes alone."""
        return not self.roles.keys().isdisjoint({"masks", "prototypes"})


def choose_rows(boxes: F32, scores: F32, labels: I64, config: DetectorConfig) -> I64:
    """Rows of boxes [N, 4] xyxy with a sufficient score and an area, best first; of two of one
    class that overlap more than `nms_iou` the better one.
    """
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    rows = np.flatnonzero((scores >= config.score_threshold) & has_area)
    rows = rows[np.argsort(-scores[rows], kind="stable")][:_MOST_BEFORE_NMS]
    kept: list[int] = []
    while len(rows) and len(kept) < config.max_masks:
        best, rows = int(rows[0]), rows[1:]
        kept.append(best)
        if config.nms_iou < 1:
            same = labels[rows] == labels[best]
            rows = rows[~(same & (compute_box_ious(boxes[best], boxes[rows]) > config.nms_iou))]
    return np.array(kept, np.int64)


def compute_box_ious(box: F32, others: F32) -> F32:
    """IoU f32 [N] of one box xyxy [4] with boxes [N, 4]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(axis=1)
    one = np.clip(box[2:] - box[:2], 0, None).prod()
    areas = one + np.clip(others[:, 2:] - others[:, :2], 0, None).prod(axis=1) - both
    return np.asarray(both / np.maximum(areas, 1e-9), np.float32)


def convert_to_xyxy(boxes: F32) -> F32:
    """Boxes [N, 4] as centre x, centre y, width, height -> corners."""
    half = boxes[:, 2:] / 2
    return np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)


def make_logits(probabilities: F32) -> F32:
    """Probabilities 0..1 as logits within -8..8."""
    inside = np.clip(probabilities, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.asarray(np.log(inside / (1 - inside)), np.float32)


def _make_mask_logits(masks: F32, config: DetectorConfig) -> F32:
    return make_logits(masks) if config.masks == "probabilities" else masks


def _sigmoid(logits: F32) -> F32:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), np.float32)


def _score_classes(logits: F32, config: DetectorConfig) -> tuple[F32, I64]:
    """Best probability [Q] and class [Q] of class logits [Q, C]."""
    if config.scores == "sigmoid":
        return _pick_best(_sigmoid(logits))
    if logits.shape[1] < 2:
        raise BundleError("`scores: softmax` needs a class and one for no object, got 1 in all")
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return _pick_best((powers / powers.sum(axis=1, keepdims=True))[:, :-1])


def _pick_best(scores: F32) -> tuple[F32, I64]:
    labels = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
    return scores[np.arange(len(scores)), labels], labels


# --- DETR and its like ----------------------------------------------------------------------------


def _read_detr(outputs: Outputs, config: DetectorConfig, canvas_px: tuple[int, int]) -> Detections:
    scores, labels = _score_classes(outputs["logits"][0], config)
    sides = np.array((canvas_px[1], canvas_px[0]) * 2, np.float32)
    boxes = convert_to_xyxy(outputs["boxes"][0]) * sides
    rows = choose_rows(boxes, scores, labels, config)
    masks = _make_mask_logits(outputs["masks"][0][rows], config) if "masks" in outputs else None
    return Detections(boxes[rows], scores[rows], labels[rows], masks)


def _read_queries(
    outputs: Outputs, config: DetectorConfig, canvas_px: tuple[int, int]
) -> Detections:
    """Mask2Former, EoMT: a mask's score is its class's times the mean probability inside it."""
    scores, labels = _score_classes(outputs["logits"][0], config)
    likely = np.flatnonzero(scores >= config.score_threshold)
    likely = likely[np.argsort(-scores[likely], kind="stable")][:_MOST_BEFORE_NMS]
    scores, labels = scores[likely], labels[likely]
    masks = _make_mask_logits(outputs["masks"][0][likely], config)
    boxes = np.zeros((len(likely), 4), np.float32)
    worth = np.zeros(len(likely), np.float32)
    for row, mask in enumerate(masks):
        inside = mask > 0
        if inside.any():
            worth[row] = scores[row] * _sigmoid(mask[inside]).mean()
            boxes[row] = _find_box(inside, canvas_px)
    rows = choose_rows(boxes, worth, labels, config)
    return Detections(boxes[rows], worth[rows], labels[rows], masks[rows])


def _find_box(inside: npt.NDArray[np.bool_], canvas_px: tuple[int, int]) -> tuple[float, ...]:
    """The tight box xyxy on the canvas of a mask [h, w] over it that has a cell."""
    down, right = (side / cells for side, cells in zip(canvas_px, inside.shape, strict=True))
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return xs[0] * right, ys[0] * down, (xs[-1] + 1) * right, (ys[-1] + 1) * down


# --- ultralytics ----------------------------------------------------------------------------------


def _read_ultralytics(
    outputs: Outputs, config: DetectorConfig, canvas_px: tuple[int, int]
) -> Detections:
    prototypes = outputs.get("prototypes")
    channels = 0 if prototypes is None else prototypes.shape[1]
    table = outputs["predictions"][0]
    if table.shape[1] == 6 + channels:  # end to end: x0 y0 x1 y1 score class, after its own NMS
        boxes, scores = table[:, :4], table[:, 4]
        labels, weights = np.asarray(np.rint(table[:, 5]), np.int64), table[:, 6:]
    else:
        table = table.T
        classes = table.shape[1] - 4 - channels
        if classes < 1:
            raise BundleError(
                f"expected predictions [1, 4 + classes + {channels}, N] or [1, N, "
                f"{6 + channels}], got {list(outputs['predictions'].shape)}: is the layout right?"
            )
        boxes, weights = convert_to_xyxy(table[:, :4]), table[:, 4 + classes :]
        scores, labels = _pick_best(table[:, 4 : 4 + classes])
    rows = choose_rows(boxes, scores, labels, config)
    found = Detections(boxes[rows], np.clip(scores[rows], 0, 1), labels[rows])
    if prototypes is None:
        return found
    maps = prototypes[0]
    logits = (weights[rows] @ maps.reshape(channels, -1)).reshape(-1, *maps.shape[1:])
    _cut_at_boxes(logits, found.boxes, canvas_px)
    return Detections(found.boxes, found.scores, found.labels, logits)


def _cut_at_boxes(logits: F32, boxes: F32, canvas_px: tuple[int, int]) -> None:
    """Set logits [N, h, w] to `OUTSIDE` beyond their boxes on the canvas, as ultralytics does."""
    height, width = logits.shape[1:]
    x = (np.arange(width) + 0.5) * canvas_px[1] / width
    y = (np.arange(height) + 0.5) * canvas_px[0] / height
    for one, (x0, y0, x1, y1) in zip(logits, boxes, strict=True):
        one[:, (x < x0) | (x > x1)] = OUTSIDE
        one[(y < y0) | (y > y1)] = OUTSIDE


# --- YOLOX ----------------------------------------------------------------------------------------


def _read_yolox(outputs: Outputs, config: DetectorConfig, canvas_px: tuple[int, int]) -> Detections:
    table = outputs["predictions"][0]
    if table.shape[1] < 6:
        raise BundleError(
            f"expected predictions [1, N, 5 + classes], got {list(outputs['predictions'].shape)}: "
            "is the layout right?"
        )
    boxes = table[:, :4]
    if not config.boxes_decoded:
        cells, strides = _list_yolox_cells(len(table), canvas_px)
        sizes = np.exp(np.clip(boxes[:, 2:], -30, 30))
        boxes = np.concatenate((boxes[:, :2] + cells, sizes), axis=1) * strides
    best, labels = _pick_best(table[:, 5:])
    scores, corners = best * table[:, 4], convert_to_xyxy(boxes)
    rows = choose_rows(corners, scores, labels, config)
    return Detections(corners[rows], np.clip(scores[rows], 0, 1), labels[rows])


def _list_yolox_cells(count: int, canvas_px: tuple[int, int]) -> tuple[F32, F32]:
    """Cells (x, y) f32 [N, 2] and strides f32 [N, 1] of the rows of YOLOX's output."""
    sums = []
    for strides in _YOLOX_STRIDES:
        shapes = [(canvas_px[0] // step, canvas_px[1] // step) for step in strides]
        sums.append(sum(down * right for down, right in shapes))
        if sums[-1] != count:
            continue
        grids, steps = [], []
        for (down, right), step in zip(shapes, strides, strict=True):
            ys, xs = np.mgrid[:down, :right]
            grids.append(np.stack((xs, ys), axis=-1).reshape(-1, 2))
            steps.append(np.full((down * right, 1), step))
        return np.concatenate(grids).astype(np.float32), np.concatenate(steps).astype(np.float32)
    raise BundleError(
        f"expected {' or '.join(map(str, sums))} rows of a {canvas_px[1]}x{canvas_px[0]} input, "
        f"got {count}: is input.size right, and was the file exported with --decode_in_inference "
        "(`boxes_decoded: true`)?"
    )


# --- torchvision ----------------------------------------------------------------------------------


def _read_torchvision(
    outputs: Outputs,
    config: DetectorConfig,
    canvas_px: tuple[int, int],  # noqa: ARG001  (its boxes are in pixels of the input)
) -> Detections:
    boxes, scores, labels = outputs["boxes"], outputs["scores"], outputs["labels"]
    rows = choose_rows(boxes, scores, labels, config)
    logits = _make_mask_logits(outputs["masks"][rows, 0], config)
    return Detections(boxes[rows], np.clip(scores[rows], 0, 1), labels[rows], logits)


_BOXES = OutputRole((1, "Q", 4), ("boxes", "dets", "pred_boxes"))
_CLASSES = OutputRole((1, "Q", "C"), ("logits", "labels", "pred_logits", "class_queries_logits"))
_MASKS = OutputRole((1, "Q", "h", "w"), ("masks", "pred_masks", "masks_queries_logits"))
_TABLE = OutputRole((1, "rows", "columns"), ("predictions", "output0", "output"))
_PROTOTYPES = OutputRole((1, "channels", "h", "w"), ("prototypes", "output1"))

_DETR = LayoutReader({"boxes": _BOXES, "logits": _CLASSES}, _read_detr)
_QUERIES = LayoutReader({"logits": _CLASSES, "masks": _MASKS}, _read_queries)

READERS: Mapping[str, LayoutReader] = {
    "detr": _DETR,
    "rf-detr": _DETR,
    "rf-detr-seg": LayoutReader({"boxes": _BOXES, "logits": _CLASSES, "masks": _MASKS}, _read_detr),
    "mask2former": _QUERIES,
    "eomt": _QUERIES,
    "ultralytics": LayoutReader({"predictions": _TABLE}, _read_ultralytics),
    "ultralytics-seg": LayoutReader(
        {"predictions": _TABLE, "prototypes": _PROTOTYPES}, _read_ultralytics
    ),
    "yolox": LayoutReader({"predictions": _TABLE}, _read_yolox),
    "torchvision-maskrcnn": LayoutReader(
        {
            "boxes": OutputRole(("N", 4), ("boxes",)),
            "labels": OutputRole(("N",), ("labels",), whole_numbers=True),
            "scores": OutputRole(("N",), ("scores",)),
            "masks": OutputRole(("N", 1, "h", "w"), ("masks",)),
        },
        _read_torchvision,
    ),
}
