"""The segmenter that a configuration names, on its thread."""

from __future__ import annotations

from pathlib import Path

from ureca.models.runtime.segmentation.base import Segmenter
from ureca.models.runtime.segmentation.sam2 import Sam2
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.config import SegmenterConfig
from ureca.node.segmentation.keyframe_segmenter import KeyframeSegmenter
from ureca.node.segmentation.worker import SegmentationWorker, ThreadSegmentationWorker
from ureca.weights import cached


def open_cutters(config: SegmenterConfig) -> SegmentationWorker | None:
    """Opened and not yet started; None when no model is named. Raises `WeightsError` when its files
    are missing.
    """
    if not config.model:
        return None
    return ThreadSegmentationWorker(KeyframeSegmenter(open_segmenter(config), config))


def open_segmenter(config: SegmenterConfig) -> Segmenter:
    """The model that `config` names."""
    if config.model == "scripted":
        return ScriptedSegmenter()
    folder = Path(config.folder) if config.folder else cached(Sam2.name)
    return Sam2(folder, threads=config.threads)
