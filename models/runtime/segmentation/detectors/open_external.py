"""What `segmenter.model` names beside the segmenters of this project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ureca.extras import require
from ureca.models.runtime.segmentation.base import Segmenter
from ureca.models.runtime.segmentation.detectors.onnx_detector import open_onnx_detector

TRANSFORMERS = "transformers:"


def open_external_segmenter(
    model: str,
    *,
    layout: str = "",
    threads: int = 1,
    open_box_segmenter: Callable[[], Segmenter] | None = None,
) -> Segmenter | None:
    """Open `PATH.onnx` or `transformers:NAME`; None for other names.

    `layout` names the YAML file that describes the model; empty: beside the ONNX file, none for
    `transformers`. `open_box_segmenter` opens what makes masks of boxes, where a file gives boxes
    alone. `transformers:` loads torch into this process. Raises `ConfigError`, `BundleError`,
    `WeightsError`, `MissingExtraError`.
    """
    layout_file = Path(layout) if layout else None
    if model.startswith(TRANSFORMERS):
        opener = require("ureca.models.mllm.segmentation.open", extra="mllm")
        opened: Segmenter = opener.open_transformers_segmenter(
            model.removeprefix(TRANSFORMERS), settings_file=layout_file, threads=threads
        )
        return opened
    if model.endswith(".onnx"):
        return open_onnx_detector(
            Path(model),
            layout_file=layout_file,
            threads=threads,
            open_box_segmenter=open_box_segmenter,
        )
    return None
