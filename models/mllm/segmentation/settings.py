"""Settings of a segmenter of `transformers`, and its image input."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ureca.config import MAX_CONFIG_BYTES, load_config
from ureca.errors import ConfigError, WeightsError
from ureca.models.runtime.segmentation.detectors.config import (
    MOST_MASKS,
    DetectorInput,
    check_class_names,
)

_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_MOST_CLASSES = 64
"""Every class costs a pass of the decoder."""


@dataclass(frozen=True, kw_only=True)
class TransformersSegmenterConfig:
    """The YAML file that `segmenter.layout` names; without one all values are the defaults."""

    classes: tuple[str, ...] = ()
    """SAM 3 and CLIPSeg: the words that are looked for. With none, SAM 3 answers clicks and boxes
    and CLIPSeg is refused."""
    score_threshold: float = 0.3
    mask_threshold: float = 0.5
    max_masks: int = 64
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU where torch sees one."""

    def __post_init__(self) -> None:
        check_class_names(self.classes, "classes")
        if len(self.classes) > _MOST_CLASSES:
            raise ConfigError(f"expected at most {_MOST_CLASSES} classes, got {len(self.classes)}")
        if not (0 < self.score_threshold < 1 and 0 < self.mask_threshold < 1):
            raise ConfigError("expected score_threshold and mask_threshold between 0 and 1")
        if not 1 <= self.max_masks <= MOST_MASKS:
            raise ConfigError(f"expected max_masks 1..{MOST_MASKS}, got {self.max_masks}")


def load_settings(path: Path | None) -> TransformersSegmenterConfig:
    """Read the file. Raises `ConfigError`."""
    return load_config(TransformersSegmenterConfig, path)


def choose_device(settings: TransformersSegmenterConfig) -> torch.device:
    """The device to run on. Raises `ConfigError` when it is not there."""
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ConfigError("device: cuda, but torch sees no GPU here: take `auto` or `cpu`")
    return torch.device("cuda" if has_gpu and settings.device != "cpu" else "cpu")


def read_image_input(name: str, side_px: int, *, is_imagenet: bool) -> DetectorInput:
    """How images become input of the model `name`: stretched to a square, with the mean and
    deviation of its preprocessor file, else ImageNet's or .5.
    """
    from transformers.utils.hub import cached_file

    found: dict[str, Any] = {}
    for file in ("preprocessor_config.json", "processor_config.json"):
        path = cached_file(
            name,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            found = _read_json(Path(path))
            break
    found = found.get("image_processor", found)
    mean, std = _IMAGENET if is_imagenet else ([0.5] * 3, [0.5] * 3)
    values = (found.get("image_mean", mean), found.get("image_std", std))
    is_plain = all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(x, int | float) for x in row)
        for row in values
    )
    if not is_plain:
        raise WeightsError(f"{name}: expected image_mean and image_std of 3 numbers, got {values}")
    means, stds = (tuple(float(x) for x in row) for row in values)
    return DetectorInput(
        size=side_px, mean=(means[0], means[1], means[2]), std=(stds[0], stds[1], stds[2])
    )


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise WeightsError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes: no configuration")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: expected an object, got {type(found).__name__}")
    return found
