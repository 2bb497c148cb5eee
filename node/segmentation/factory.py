"""Decides on the segmenter and opens it on its thread."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ureca.bundle import load_manifest
from ureca.errors import ConfigError
from ureca.models.runtime.pretrained import require_bundle
from ureca.models.runtime.segmentation.base import Segmenter, list_class_names
from ureca.models.runtime.segmentation.bundled import has_mask_head, open_mask_head
from ureca.models.runtime.segmentation.detectors.open_external import (
    TRANSFORMERS,
    open_external_segmenter,
)
from ureca.models.runtime.segmentation.open_checkpoints import is_query_captioner
from ureca.models.runtime.segmentation.sam2 import Sam2
from ureca.models.runtime.segmentation.scripted import ScriptedSegmenter
from ureca.node.segmentation.keyframe_segmenter import KeyframeSegmenter
from ureca.node.segmentation.worker import SegmentationWorker, ThreadSegmentationWorker
from ureca.node.segmenter_config import NO_SEGMENTER, SegmenterConfig
from ureca.weights import cached


def resolve_segmenter(config: SegmenterConfig, bundle: Path | None) -> SegmenterConfig:
    """The configuration with nothing left open: `auto` becomes the mask head of the captioner's
    `bundle` (of a checkpoint that segments itself: that), or `none`. `bundle` is None for a
    captioner without files.

    Raises `ConfigError` with the remedy when things should be found and there is no segmenter.
    """
    takes_bundle = config.model == "nano" or config.is_external
    if takes_bundle and not config.folder and bundle is not None:
        return replace(config, folder=str(bundle))
    if config.model != "auto":
        return config
    folder = Path(config.folder) if config.folder else bundle
    if folder is not None and is_query_captioner(folder):
        return replace(config, model=f"{TRANSFORMERS}{folder}", folder=str(folder))
    if folder is not None and has_mask_head(load_manifest(folder)):
        return replace(config, model="nano", folder=str(folder))
    if config.everything:
        name = f"the bundle {folder}" if folder else "this captioner"
        why = f"{name} has no mask head, and segmenter.model names no other"
        raise ConfigError(f"--auto and segmenter.everything: {NO_SEGMENTER.format(why=why)}")
    return replace(config, model="none")


def open_segmentation_worker(config: SegmenterConfig) -> SegmentationWorker | None:
    """Opened and not yet started; None without a segmenter. Raises `WeightsError` when its files
    are missing, and `ConfigError` for classes that it does not know.
    """
    if not config.is_on:
        resolve_segmenter(config, None)
        return None
    segmenter = open_segmenter(config)
    _check_classes(segmenter, config)
    return ThreadSegmentationWorker(KeyframeSegmenter(segmenter, config))


def open_segmenter(config: SegmenterConfig) -> Segmenter:
    """The model that `config` names."""
    if config.model == "scripted":
        return ScriptedSegmenter()
    if config.model == "nano":
        folder = Path(config.folder) if config.folder else require_bundle()
        return open_mask_head(folder, threads=config.threads)
    if config.is_external:
        external = open_external_segmenter(
            config.model,
            layout=config.layout,
            threads=config.threads,
            open_box_segmenter=_find_mask_head(config),
        )
        assert external is not None  # `is_external` and `open_external_segmenter` agree
        return external
    folder = Path(config.folder) if config.folder else cached(Sam2.name)
    return Sam2(folder, threads=config.threads)


def _find_mask_head(config: SegmenterConfig) -> Callable[[], Segmenter] | None:
    """What opens the mask head of the bundle in `config.folder`; None where it has none."""
    folder = Path(config.folder)
    if not config.folder or is_query_captioner(folder):
        return None
    if not has_mask_head(load_manifest(folder)):
        return None
    return lambda: open_mask_head(folder, threads=config.threads)


def _check_classes(segmenter: Segmenter, config: SegmenterConfig) -> None:
    known = list_class_names(segmenter)
    for key in ("include_classes", "exclude_classes"):
        for name in getattr(config, key):
            if not known:
                raise ConfigError(
                    f"segmenter.{key}: the segmenter {segmenter.name} has no classes; leave it "
                    "empty, or look for words with --text"
                )
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1) or known[:5]
                raise ConfigError(
                    f"segmenter.{key}: expected classes of {segmenter.name}, such as "
                    f"{', '.join(near)}; got {name!r:.80}"
                )
