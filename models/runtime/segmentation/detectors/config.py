"""The YAML beside a detector's ONNX file: which layout, what the network wants to see.

Only `layout` must be there. Each layout has the defaults of its project (`_DEFAULTS`); the file
overrides them. `docs/detectors.md` has one example per layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ureca.config import MAX_CONFIG_BYTES, from_plain, read_yaml
from ureca.errors import ConfigError

Layout = Literal[
    "detr",
    "eomt",
    "mask2former",
    "rf-detr",
    "rf-detr-seg",
    "torchvision-maskrcnn",
    "ultralytics",
    "ultralytics-seg",
    "yolox",
]
LAYOUTS: tuple[str, ...] = get_args(Layout)

MOST_MASKS = 512
_MOST_SIDE_PX = 4096
_MOST_CLASSES, _MOST_LETTERS = 100_000, 80

_IMAGENET: dict[str, Any] = {
    "resize": "stretch",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "detr": {"input": _IMAGENET, "scores": "softmax"},
    "rf-detr": {"input": _IMAGENET},
    "rf-detr-seg": {"input": _IMAGENET},
    "mask2former": {"input": _IMAGENET, "scores": "softmax"},
    "eomt": {
        "input": {**_IMAGENET, "resize": "letterbox", "place": "upper-left", "pad": 0},
        "scores": "softmax",
    },
    "ultralytics": {"input": {"resize": "letterbox"}, "nms_iou": 0.7},
    "ultralytics-seg": {"input": {"resize": "letterbox"}, "nms_iou": 0.7},
    "yolox": {
        "input": {"resize": "letterbox", "place": "upper-left", "channels": "bgr", "scale": 1.0},
        "nms_iou": 0.45,
    },
    "torchvision-maskrcnn": {"input": {"resize": "none"}, "masks": "probabilities"},
}


@dataclass(frozen=True, kw_only=True)
class DetectorInput:
    """How an image becomes the network's input: `(pixel * scale - mean) / std` in f32."""

    size: int | tuple[int, int] | None = None
    """Side, or height and width, in pixels; left out: the size that the ONNX file states."""
    resize: Literal["letterbox", "stretch", "none"] = "stretch"
    """`letterbox` keeps the aspect ratio and fills the rest with `pad`; `none` leaves the size."""
    place: Literal["centre", "upper-left"] = "centre"
    """Where a letterboxed image lies."""
    pad: int = 114
    """Of the rest, in every channel, 0..255, before `scale`."""
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        _ensure(0 <= self.pad <= 255, f"expected input.pad 0..255, got {self.pad}")
        _ensure(min(self.std) > 0, f"expected input.std above 0, got {self.std}")
        _ensure(self.scale > 0, f"expected input.scale above 0, got {self.scale}")
        sides = self.canvas_px or (1, 1)
        _ensure(
            all(1 <= side <= _MOST_SIDE_PX for side in sides),
            f"expected input.size 1..{_MOST_SIDE_PX} px, got {self.size}",
        )
        _ensure(
            self.resize != "none" or self.size is None,
            f"input.resize: none keeps the image's size, so it takes no input.size ({self.size})",
        )

    @property
    def canvas_px(self) -> tuple[int, int] | None:
        """Height and width of the input, None where the file does not say."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """One detector. Boxes, scores and masks mean what `docs/detectors.md` says of the layout."""

    layout: Layout
    input: DetectorInput = field(default_factory=DetectorInput)
    outputs: dict[str, str] = field(default_factory=dict)
    """Role to name in the ONNX file, where names and shapes do not tell (`boxes: 1203`)."""
    classes: tuple[str, ...] | dict[int, str] | str = ()
    """Names by class number: a list, a mapping, or a text file with one name a line, beside the
    YAML. Left out: what the ONNX file's metadata say (ultralytics), else no labels."""
    score_threshold: float = 0.3
    mask_threshold: float = 0.5
    nms_iou: float = 1.0
    """Of two boxes of one class that overlap more, the surer one stays; 1: both."""
    max_masks: int = 64
    scores: Literal["sigmoid", "softmax"] = "sigmoid"
    """Of class logits; with `softmax` the last class is "no object"."""
    masks: Literal["logits", "probabilities"] = "logits"
    """What the file's masks are: numbers that are positive inside, or 0..1."""
    boxes_decoded: bool = False
    """`yolox`: exported with `--decode_in_inference`, so boxes are in pixels."""
    box_masks: Literal["auto", "segmenter", "grabcut", "fill"] = "auto"
    """What makes masks of boxes: another segmenter (the mask head), GrabCut, or the filled box.
    `auto`: the segmenter where there is one, else GrabCut."""

    def __post_init__(self) -> None:
        for name in ("score_threshold", "mask_threshold"):
            value = getattr(self, name)
            _ensure(0 < value < 1, f"expected {name} between 0 and 1, got {value}")
        _ensure(0 < self.nms_iou <= 1, f"expected 0 < nms_iou <= 1, got {self.nms_iou}")
        _ensure(
            1 <= self.max_masks <= MOST_MASKS,
            f"expected max_masks 1..{MOST_MASKS}, got {self.max_masks}",
        )


def load_detector_config(path: Path) -> DetectorConfig:
    """Read the YAML file and, where it names one, the file of the class names. Raises
    `ConfigError`.
    """
    config = make_detector_config(read_yaml(path), where=str(path))
    if not isinstance(config.classes, str):
        return config
    return replace(config, classes=_read_classes(path.parent / config.classes))


def make_detector_config(data: Mapping[str, Any], *, where: str = "detector") -> DetectorConfig:
    """Plain data over the defaults of its layout. Raises `ConfigError`."""
    config = from_plain(DetectorConfig, _add_defaults(data, where), where=where)
    if not isinstance(config.classes, str):
        check_class_names(config.classes, where)
    return config


def check_class_names(classes: tuple[str, ...] | Mapping[int, str], where: str) -> dict[int, str]:
    """Names by number. Raises `ConfigError` for too many, too long or unprintable ones."""
    names = dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes))
    _ensure(
        len(names) <= _MOST_CLASSES,
        f"{where}: expected at most {_MOST_CLASSES} classes, got {len(names)}",
    )
    for number, name in names.items():
        fits = 0 < len(name) <= _MOST_LETTERS and name.isprintable()
        _ensure(
            fits and number >= 0,
            f"{where}: expected a printable class name of 1..{_MOST_LETTERS} letters and a number "
            f"from 0 on, got {number}: {name[:_MOST_LETTERS]!r}",
        )
    return names


def _add_defaults(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    layout = data.get("layout")
    if not isinstance(layout, str) or layout not in _DEFAULTS:
        raise ConfigError(f"{where}: expected layout: one of {', '.join(LAYOUTS)}; got {layout!r}")
    merged = {**_DEFAULTS[layout], **data}
    given = data.get("input", {})
    if isinstance(given, Mapping):
        merged["input"] = {**_DEFAULTS[layout]["input"], **given}
    return merged


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes: no list of classes")
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the class names {path}: {error}") from error
    while lines and not lines[-1]:
        lines.pop()
    check_class_names(tuple(lines), str(path))
    return tuple(lines)


def _ensure(condition: bool, message: str) -> None:  # noqa: FBT001  (a condition)
    if not condition:
        raise ConfigError(message)
