"""The three static graphs of the mask head: names, types and shapes of their tensors.

The exporter writes graphs with them, the runtime opens no others. `segment` looks at a canvas,
`prompt` makes kernels of points and boxes, `masks` draws kernels (`mask_head.MaskGraphs`).
"""

from __future__ import annotations

from typing import TypeAlias

from ureca.bundle import MaskHeadSpec, TensorSpec
from ureca.errors import BundleError
from ureca.models.runtime.graph_names import MASK_GRAPHS, MASKS, PROMPT, SEGMENT
from ureca.models.runtime.segmentation.mask_head import GRID_STRIDE, MAP_STRIDE, POSITION_TERMS
from ureca.models.runtime.segmentation.mask_selection import SLOTS

MAX_POINTS, MAX_BOXES, MAX_KERNELS = 64, 32, 128
"""Rows of one call; the rest is padded. A click needs one point and three kernels; everything in an
image, 30 boxes and about 600 kernels.
"""
_CANVAS_MULTIPLE, _CANVAS_MOST_PX, _MOST_ROWS, _MOST_CHANNELS = 32, 2048, 1024, 1024

Tensors: TypeAlias = tuple[TensorSpec, ...]


def list_mask_tensors(head: MaskHeadSpec) -> dict[str, tuple[Tensors, Tensors]]:
    """Inputs and outputs of each graph, all float32, in the order of the graph.

    Raises `BundleError` for sizes beyond what this version runs.
    """
    _check_sizes(head)
    height, width = head.canvas_px
    size = head.map_channels + POSITION_TERMS
    grid = (height // GRID_STRIDE) * (width // GRID_STRIDE)
    shown = _f32("map", 1, head.map_channels, height // MAP_STRIDE, width // MAP_STRIDE)
    cells = _f32("cells", 1, head.channels, height // 8, width // 8)
    context = _f32("context", 1, head.channels, height // 16, width // 16)
    boxes = (_f32("boxes", 1, head.proposals, 5),) if head.proposals else ()
    points, areas, rows = head.max_points, head.max_boxes, head.max_kernels
    return {
        SEGMENT: (
            (_f32("pixels", 1, 3, height, width),),
            (
                shown,
                cells,
                context,
                _f32("grid_kernels", 1, grid, SLOTS, size),
                _f32("grid_scores", 1, grid, SLOTS),
                *boxes,
            ),
        ),
        PROMPT: (
            (shown, cells, context, _f32("points_px", 1, points, 2), _f32("boxes_px", 1, areas, 4)),
            (
                _f32("point_kernels", 1, points, SLOTS, size),
                _f32("point_scores", 1, points, SLOTS),
                _f32("box_kernels", 1, areas, size),
                _f32("box_scores", 1, areas),
            ),
        ),
        MASKS: (
            (_f32("kernels", 1, rows, size), shown),
            (_f32("logits", 1, rows, height // MAP_STRIDE, width // MAP_STRIDE),),
        ),
    }


def check_mask_tensors(head: MaskHeadSpec) -> None:
    """Raise `BundleError` if the graphs of a manifest are not those that this version runs."""
    expected = list_mask_tensors(head)
    if set(head.graphs) != set(MASK_GRAPHS):
        raise BundleError(
            f"the mask head has the graphs {sorted(head.graphs)}, expected {sorted(MASK_GRAPHS)}: "
            "export it again, or update ureca"
        )
    for name, tensors in expected.items():
        if (head.graphs[name].inputs, head.graphs[name].outputs) != tensors:
            raise BundleError(
                f"the mask head's graph {name!r} has other tensors than this version runs: export "
                "it again, or update ureca"
            )


def _check_sizes(head: MaskHeadSpec) -> None:
    sides_fit = all(
        0 < side <= _CANVAS_MOST_PX and side % _CANVAS_MULTIPLE == 0 for side in head.canvas_px
    )
    rows = (head.max_points, head.max_boxes, head.max_kernels)
    rows_fit = all(0 < count <= _MOST_ROWS for count in rows)
    channels_fit = all(0 < c <= _MOST_CHANNELS for c in (head.channels, head.map_channels))
    cells = sum(head.canvas_px[0] * head.canvas_px[1] // s**2 for s in (8, 16, 32))
    if not (sides_fit and rows_fit and channels_fit and 0 <= head.proposals <= cells):
        raise BundleError(
            f"the mask head's sizes are out of range: canvas {head.canvas_px}, channels "
            f"{head.channels} and {head.map_channels}, rows {rows}, {head.proposals} boxes; "
            "export it again, or update ureca"
        )


def _f32(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)
