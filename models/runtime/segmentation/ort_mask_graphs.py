"""The mask head's graphs in ONNX Runtime: static shapes, buffers that are allocated once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ureca.bundle import MaskHeadSpec, TensorSpec
from ureca.errors import BundleError, EngineError
from ureca.models.runtime.graph_backend import Value, Values
from ureca.models.runtime.graph_names import MASKS, PROMPT, SEGMENT
from ureca.models.runtime.ort import OrtRunner, Session, open_session
from ureca.models.runtime.segmentation.base import F32
from ureca.models.runtime.segmentation.mask_head import POSITION_TERMS, HeadMaps, make_head_maps
from ureca.models.runtime.segmentation.mask_tensors import check_mask_tensors


class OrtMaskGraphs:
    """Implements `MaskGraphs`. More rows than a graph takes go in several calls.

    `head` describes the graphs, `paths` are their files by name. Raises `BundleError` when they do
    not fit each other. Calls raise `EngineError`. One thread at a time.
    """

    def __init__(self, head: MaskHeadSpec, paths: Mapping[str, Path], *, threads: int = 1) -> None:
        check_mask_tensors(head)
        self.canvas_px = head.canvas_px
        self._names = {
            name: [spec.name for spec in graph.outputs] for name, graph in head.graphs.items()
        }
        sessions = {name: open_session(paths[name], threads=threads) for name in head.graphs}
        for name, session in sessions.items():
            _check_session(head, name, session)
        size = head.map_channels + POSITION_TERMS
        self._points = np.zeros((1, head.max_points, 2), np.float32)
        self._boxes = np.zeros((1, head.max_boxes, 4), np.float32)
        self._kernels = np.zeros((1, head.max_kernels, size), np.float32)
        outputs = [spec for name in (PROMPT, MASKS) for spec in head.graphs[name].outputs]
        self._found = {spec.name: _allocate(spec) for spec in outputs}
        self._runner = _BufferedRunner(sessions, self._found)
        inputs = {"points_px": self._points, "boxes_px": self._boxes, "kernels": self._kernels}
        self._inputs = {name: self._runner.put(array) for name, array in inputs.items()}

    def see(self, pixels: F32) -> HeadMaps:
        """See `MaskGraphs`. The arrays of the result are its own."""
        feeds = {"pixels": self._runner.put(np.ascontiguousarray(pixels, np.float32))}
        values = self._runner.run(SEGMENT, self._names[SEGMENT], feeds)
        found = [np.asarray(values[name].numpy(), np.float32) for name in self._names[SEGMENT]]
        maps = make_head_maps(found, self.canvas_px)
        if not np.isfinite(maps.scores).all():
            raise EngineError("the mask head answered with values that are not finite")
        return maps

    def make_kernels(
        self, maps: HeadMaps, points_px: F32, boxes_px: F32
    ) -> tuple[F32, F32, F32, F32]:
        """See `MaskGraphs`."""
        shared = {"map": maps.map, "cells": maps.cells, "context": maps.context}
        feeds = {name: self._runner.put(array) for name, array in shared.items()}
        names = self._names[PROMPT]
        counts = len(points_px), len(boxes_px)
        found = [
            np.empty((rows, *self._found[name].shape[2:]), np.float32)
            for name, rows in zip(names, (counts[0], *counts, counts[1]), strict=True)
        ]
        for points, boxes in _list_calls(counts, (len(self._points[0]), len(self._boxes[0]))):
            _fill(self._points[0], points_px[points])
            _fill(self._boxes[0], boxes_px[boxes])
            given = {name: self._inputs[name] for name in ("points_px", "boxes_px")}
            self._runner.run(PROMPT, names, {**feeds, **given})
            for name, rows, array in zip(names, (points, points, boxes, boxes), found, strict=True):
                array[rows] = self._found[name][0, : len(array[rows])]
        return found[0], found[1], found[2], found[3]

    def draw(self, maps: HeadMaps, kernels: F32) -> F32:
        """See `MaskGraphs`."""
        (name,) = self._names[MASKS]
        logits = self._found[name][0]
        found = np.empty((len(kernels), *logits.shape[1:]), np.float32)
        feeds = {"map": self._runner.put(maps.map), "kernels": self._inputs["kernels"]}
        for (rows,) in _list_calls((len(kernels),), (len(self._kernels[0]),)):
            _fill(self._kernels[0], kernels[rows])
            self._runner.run(MASKS, [name], feeds)
            found[rows] = logits[: len(found[rows])]
        return found


class _BufferedRunner(OrtRunner):
    """An `OrtRunner` that writes the outputs named in `buffers` into these arrays."""

    def __init__(self, sessions: Mapping[str, Session], buffers: Mapping[str, F32]) -> None:
        super().__init__(sessions)
        self._buffers = {name: self.put(array) for name, array in buffers.items()}

    def _run(self, session: Session, outputs: list[str], feeds: Values) -> Sequence[Value]:
        binding = session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            if name in self._buffers:
                binding.bind_ortvalue_output(name, self._buffers[name])
            else:
                binding.bind_output(name)
        session.run_with_iobinding(binding)
        values: Sequence[Value] = binding.get_outputs()
        return values


def _allocate(spec: TensorSpec) -> F32:
    return np.zeros([int(side) for side in spec.shape], np.float32)


def _check_session(head: MaskHeadSpec, name: str, session: Session) -> None:
    """A graph whose tensors differ from its description would not fit the buffers."""
    specs = (*head.graphs[name].inputs, *head.graphs[name].outputs)
    told = [(spec.name, list(spec.shape)) for spec in specs]
    found = [(one.name, list(one.shape)) for one in (*session.get_inputs(), *session.get_outputs())]
    if told != found:
        raise BundleError(
            f"the mask head's graph {name!r} has the tensors {found}, its manifest says {told}: "
            "export it again"
        )


def _list_calls(counts: tuple[int, ...], steps: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Which rows of each kind go in each call, when a call takes `steps` of them."""
    calls = max(-(-count // step) for count, step in zip(counts, steps, strict=True))
    for call in range(calls):
        yield tuple(slice(call * step, (call + 1) * step) for step in steps)


def _fill(buffer: F32, rows: F32) -> None:
    """Put rows at the begin of a buffer, zeros behind them."""
    buffer[: len(rows)] = rows
    buffer[len(rows) :] = 0
