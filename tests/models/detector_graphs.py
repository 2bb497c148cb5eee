"""Small ONNX files in the layouts of other projects. Their "network" finds colours.

Detection n is the tight box of the pixels of input channel n above a threshold, and its mask is
that channel. So boxes and masks depend on where and how the image lies on the input, and a test can
tell whether placement, channel order and normalisation are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCORES = (0.9, 0.8, 0.6)
"""Of the three detections; their classes are 0, 1, 2."""
THRESHOLD = 0.5
_TO_CENTRE = np.array(
    [[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]], np.float32
)


class DetectorGraph:
    """Nodes of one file; every method returns the name of its result."""

    def __init__(self, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> None:
        self.nodes, self.constants, self.shape, self.kind = [], [], list(shape), kind
        self.image = "image" if kind == TensorProto.FLOAT else self.op("Cast", "image", to=1)
        if len(shape) == 3:
            self.image = self.op("Unsqueeze", self.image, self.constant([0]))

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, value: object) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def find_boxes(self) -> str:
        """Boxes xyxy [3, 4] in pixels of the input."""
        on = self.op("Cast", self.op("Greater", self.image, self.constant(THRESHOLD)), to=1)
        ends = []
        for axis in (2, 3):  # columns, then rows
            line = self.op("ReduceMax", on, self.constant([axis]), keepdims=0)
            first = self.op("Cast", self.op("ArgMax", line, axis=2, keepdims=0), to=1)
            last = self.op("ArgMax", line, axis=2, keepdims=0, select_last_index=1)
            end = self.op("Add", self.op("Cast", last, to=1), self.constant(1.0))
            ends.append((first, end))
        (x0, x1), (y0, y1) = ends
        columns = [self.op("Unsqueeze", end, self.constant([2])) for end in (x0, y0, x1, y1)]
        return self.op("Squeeze", self.op("Concat", *columns, axis=2), self.constant([0]))

    def find_centres(self) -> str:
        """The same as centre and size."""
        return self.op("MatMul", self.find_boxes(), self.constant(_TO_CENTRE))

    def pool_masks(self, cells: int = 4) -> str:
        """Logits [1, 3, h / cells, w / cells], positive above the threshold."""
        means = self.op("AveragePool", self.image, kernel_shape=[cells] * 2, strides=[cells] * 2)
        return self.op("Mul", self.op("Sub", means, self.constant(THRESHOLD)), self.constant(80.0))

    def save(self, path: Path, outputs: dict[str, tuple[str, Sequence[int | str]]], **more) -> Path:
        """Write the file: output name to result and shape. `more`: metadata."""
        for name, (result, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [result], [name]))
        kinds = dict.fromkeys(outputs, TensorProto.FLOAT) | more.pop("kinds", {})
        graph = helper.make_graph(
            self.nodes,
            "colours",
            [helper.make_tensor_value_info("image", self.kind, self.shape)],
            [
                helper.make_tensor_value_info(name, kinds[name], list(shape))
                for name, (_, shape) in outputs.items()
            ],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        helper.set_model_props(model, more)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def make_class_logits(classes: int, *, softmax: bool = False) -> np.ndarray:
    """Logits [1, 3, classes] whose best probabilities are `SCORES`, for classes 0, 1, 2."""
    if not softmax:
        logits = np.full((1, 3, classes), -9.0, np.float32)
        logits[0, range(3), range(3)] = [np.log(p / (1 - p)) for p in SCORES]
        return logits
    rows = np.full((1, 3, classes), 1e-6, np.float32)
    rows[0, range(3), range(3)] = SCORES
    rows[0, :, -1] = 1 - np.array(SCORES)
    return np.log(rows)


def make_detr(path: Path, side: int = 64, *, masks: bool, softmax: bool = False) -> Path:
    """RF-DETR and DETR: normalised centres and sizes, class logits, mask logits."""
    graph = DetectorGraph((1, 3, side, side))
    boxes = graph.op("Div", graph.find_centres(), graph.constant(float(side)))
    outputs = {
        "dets": (graph.op("Unsqueeze", boxes, graph.constant([0])), (1, 3, 4)),
        "labels": (graph.constant(make_class_logits(5, softmax=softmax)), (1, 3, 5)),
    }
    if masks:
        outputs["masks"] = (graph.pool_masks(), (1, 3, side // 4, side // 4))
    return graph.save(path, outputs)


def make_queries(path: Path, height: int = 64, width: int = 64, *, classes: int = 5) -> Path:
    """Mask2Former and EoMT: class logits with "no object" at the end, mask logits."""
    graph = DetectorGraph((1, 3, height, width))
    logits = graph.constant(make_class_logits(classes, softmax=True))
    return graph.save(
        path,
        {
            "class_queries_logits": (logits, (1, 3, classes)),
            "masks_queries_logits": (graph.pool_masks(), (1, 3, height // 4, width // 4)),
        },
    )


def make_ultralytics(
    path: Path,
    height: int = 128,
    width: int = 192,
    *,
    masks: bool = True,
    end_to_end: bool = False,
    noise: int = 20,
) -> Path:
    """Three detections, each twice (NMS has work), and rows of noise below any threshold."""
    graph = DetectorGraph((1, 3, height, width))
    scores = np.diag(SCORES).astype(np.float32)
    if end_to_end:
        parts = [graph.find_boxes(), graph.constant(np.array(SCORES, np.float32)[:, None])]
        parts.append(graph.constant(np.arange(3, dtype=np.float32)[:, None]))
    else:
        parts = [graph.find_centres(), graph.constant(scores)]
    if masks:
        parts.append(graph.constant(np.eye(3, dtype=np.float32)))
    once = graph.op("Concat", *parts, axis=1)
    weaker = graph.op("Mul", once, graph.constant(0.999))
    columns = (6 if end_to_end else 7) + 3 * masks
    rest = graph.constant(np.full((noise, columns), 0.01, np.float32))
    rows = graph.op("Concat", once, *([] if end_to_end else [weaker]), rest, axis=0)
    count = noise + (3 if end_to_end else 6)
    table = rows if end_to_end else graph.op("Transpose", rows, perm=[1, 0])
    shape = (1, count, columns) if end_to_end else (1, columns, count)
    outputs = {"output0": (graph.op("Unsqueeze", table, graph.constant([0])), shape)}
    if masks:
        outputs["output1"] = (graph.pool_masks(), (1, 3, height // 4, width // 4))
    return graph.save(path, outputs, names="{0: 'red', 1: 'green', 2: 'blue'}")


def make_yolox(path: Path, height: int = 64, width: int = 96, *, decoded: bool = False) -> Path:
    """Boxes in the first three cells of stride 8; input 0..255."""
    graph = DetectorGraph((1, 3, height, width))
    graph.image = graph.op("Div", graph.image, graph.constant(255.0))
    boxes = graph.find_centres()
    if not decoded:
        strides = graph.op("Div", boxes, graph.constant(8.0))
        centre, size = (
            graph.op("Slice", strides, *(graph.constant([n]) for n in (begin, begin + 2, 1)))
            for begin in (0, 2)
        )
        cells = graph.constant(np.array([[0, 0], [1, 0], [2, 0]], np.float32))
        boxes = graph.op("Concat", graph.op("Sub", centre, cells), graph.op("Log", size), axis=1)
    scores = np.concatenate((np.ones((3, 1)), np.diag(SCORES), np.zeros((3, 1))), axis=1)
    three = graph.op("Concat", boxes, graph.constant(scores), axis=1)
    count = sum((height // step) * (width // step) for step in (8, 16, 32))
    rest = graph.constant(np.zeros((count - 3, 9), np.float32))
    rows = graph.op("Concat", three, rest, axis=0)
    table = graph.op("Unsqueeze", rows, graph.constant([0]))
    return graph.save(path, {"output": (table, (1, count, 9))})


def make_torchvision(path: Path) -> Path:
    """Mask R-CNN: one image [3, H, W] of any size; masks are probabilities at its size."""
    graph = DetectorGraph((3, "H", "W"))
    on = graph.op("Greater", graph.image, graph.constant(THRESHOLD))
    masks = graph.op("Transpose", graph.op("Cast", on, to=1), perm=[1, 0, 2, 3])
    outputs = {
        "boxes": (graph.find_boxes(), ("N", 4)),
        "labels": (graph.constant(np.array([1, 2, 3], np.int64)), ("N",)),
        "scores": (graph.constant(np.array(SCORES, np.float32)), ("N",)),
        "masks": (masks, ("N", 1, "h", "w")),
    }
    return graph.save(path, outputs, kinds={"labels": TensorProto.INT64})
