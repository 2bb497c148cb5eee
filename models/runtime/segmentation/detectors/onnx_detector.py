"""An ONNX file of another project as a `Segmenter`: it runs once per image and finds what it was
trained to find; prompts choose among that.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ureca.datatypes import Image
from ureca.errors import BundleError, ConfigError, EngineError
from ureca.models.onnx_file import check_onnx_file
from ureca.models.runtime.ort import list_error_types, make_run_options, open_session
from ureca.models.runtime.segmentation.base import (
    F32,
    MaskPrediction,
    Segmenter,
    SegmenterPrompt,
)
from ureca.models.runtime.segmentation.detectors.box_masks import fill_boxes, segment_boxes
from ureca.models.runtime.segmentation.detectors.config import (
    LAYOUTS,
    DetectorConfig,
    check_class_names,
    load_detector_config,
)
from ureca.models.runtime.segmentation.detectors.detected_image import (
    DetectedImage,
    answer_prompt,
    compute_image_features,
)
from ureca.models.runtime.segmentation.detectors.layouts import READERS, Detections
from ureca.models.runtime.segmentation.detectors.outputs import (
    GraphValue,
    assign_outputs,
    check_arrays,
    describe,
)
from ureca.models.runtime.segmentation.detectors.placement import (
    InputPlacement,
    make_network_input,
    place_image,
)

_TYPES: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
_MOST_METADATA_LETTERS = 1 << 20


class OnnxDetector:
    """A `Segmenter`. `boxes_to_masks` is asked for masks where the network gives boxes alone.
    `class_names` are the labels that it may give.

    Raises `BundleError` when the file cannot be used and `ConfigError` when it is not of the layout
    that `config` names. It runs once at the start, on a grey image, to find out.
    """

    def __init__(
        self,
        path: Path,
        config: DetectorConfig,
        *,
        threads: int = 1,
        boxes_to_masks: Segmenter | None = None,
    ) -> None:
        check_onnx_file(path)
        self.name = path.stem
        self._where, self._config, self._reader = str(path), config, READERS[config.layout]
        self._boxes_to_masks = None if config.box_masks in {"grabcut", "fill"} else boxes_to_masks
        if config.box_masks == "segmenter" and boxes_to_masks is None:
            raise ConfigError(
                f"{path}: `box_masks: segmenter` needs the mask head of a bundle, and there is "
                "none: take `grabcut` or `fill`"
            )
        self._session = open_session(path, threads=threads)
        self._run_options = make_run_options()
        self._input, self._canvas_px = _check_input(
            _list_values(self._session.get_inputs()), config, self._where
        )
        outputs = _list_values(self._session.get_outputs())
        self._outputs = assign_outputs(
            self._reader.roles, outputs, config.outputs, where=self._where
        )
        self._names = _find_names(config, self._session, self._where)
        self.class_names = tuple(dict.fromkeys(self._names.values()))
        self.encode(np.full((64, 64, 3), 114, np.uint8))

    def encode(self, image: Image) -> DetectedImage:
        """See `Segmenter`: runs the network and makes all masks."""
        where = place_image((image.shape[0], image.shape[1]), self._config.input, self._canvas_px)
        found = self._detect(make_network_input(image, self._config.input, where), where)
        boxes = where.map_boxes_to_image(found.boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        seen = np.flatnonzero(sides.min(axis=1) > 0)  # a box on the padding alone is nothing
        masks = self._make_masks(image, boxes, found, where)
        predictions = [
            MaskPrediction(mask, float(score), self._names.get(int(label)))
            for mask, score, label in zip(masks, found.scores, found.labels, strict=True)
        ]
        rows = [int(row) for row in seen if (predictions[row].logits > 0).any()]
        return DetectedImage(
            where.size,
            tuple(predictions[row] for row in rows),
            boxes[rows],
            compute_image_features(image),
        )

    def features(self, encoded: DetectedImage) -> F32:
        """See `Segmenter`: colours and edges, f32 [8, h, w]; not the network's own."""
        return encoded.features

    def segment(
        self, encoded: DetectedImage, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """See `Segmenter` and `answer_prompt`."""
        return [answer_prompt(encoded, prompt) for prompt in prompts]

    def everything(self, encoded: DetectedImage) -> list[MaskPrediction]:
        """All that was found, best first, at most `max_masks`, with its class as the label."""
        return list(encoded.predictions)

    def stop(self) -> None:
        """See `Segmenter`: ONNX Runtime ends a run at its next operator."""
        self._run_options.terminate = True
        if self._boxes_to_masks is not None:
            self._boxes_to_masks.stop()

    def _detect(self, pixels: F32, where: InputPlacement) -> Detections:
        feed = self._fit_type(pixels if len(self._input.shape) == 3 else pixels[None])
        try:
            arrays = self._session.run(
                list(self._outputs.values()), {self._input.name: feed}, self._run_options
            )
        except list_error_types() as error:
            raise EngineError(
                f"{self._where} failed on its input {self._input.name} {list(feed.shape)}: {error}"
            ) from error
        named = dict(zip(self._outputs, arrays, strict=True))
        checked = check_arrays(self._reader.roles, named, where=self._where)
        try:
            return self._reader.read(checked, self._config, where.canvas)
        except BundleError as error:
            raise BundleError(f"{self._where}: {error}") from error

    def _fit_type(self, pixels: F32) -> npt.NDArray[Any]:
        kind = _TYPES[self._input.type]
        if kind is np.uint8:
            pixels = np.rint(np.clip(pixels, 0, 255)).astype(np.float32)
        return pixels.astype(kind, copy=False)

    def _make_masks(
        self, image: Image, boxes: F32, found: Detections, where: InputPlacement
    ) -> list[F32]:
        """Logits [h, w] over the image, 0 at the mask threshold."""
        if found.logits is not None:
            threshold = self._config.mask_threshold
            shift = np.float32(np.log(threshold / (1 - threshold)))
            return list(where.crop_to_image(found.logits) - shift)
        if self._boxes_to_masks is not None:
            return segment_boxes(self._boxes_to_masks, image, boxes)
        return fill_boxes(image, boxes, use_grabcut=self._config.box_masks != "fill")


def open_onnx_detector(
    path: Path,
    *,
    layout_file: Path | None = None,
    threads: int = 1,
    open_box_segmenter: Callable[[], Segmenter] | None = None,
) -> OnnxDetector:
    """Open `path` with the layout of `layout_file`, else of the YAML of the same name beside it.
    `open_box_segmenter` is called where the network gives boxes alone. Raises `ConfigError` and
    `BundleError`.
    """
    check_onnx_file(path)
    beside = layout_file or path.with_suffix(".yaml")
    if not beside.is_file():
        session = open_session(path, threads=1)
        raise ConfigError(
            f"no {beside}: expected a YAML file that says `layout: NAME`, one of "
            f"{', '.join(LAYOUTS)}, because an ONNX file does not tell what its outputs mean. "
            f"{path.name} has the inputs: {describe(_list_values(session.get_inputs()))}; "
            f"outputs: {describe(_list_values(session.get_outputs()))}"
        )
    config = load_detector_config(beside)
    has_masks = READERS[config.layout].makes_masks
    wants_segmenter = not has_masks and config.box_masks in {"auto", "segmenter"}
    boxes_to_masks = open_box_segmenter() if wants_segmenter and open_box_segmenter else None
    return OnnxDetector(path, config, threads=threads, boxes_to_masks=boxes_to_masks)


def _list_values(values: Sequence[Any]) -> list[GraphValue]:  # onnxruntime ships no types
    return [GraphValue(one.name, one.type, tuple(one.shape)) for one in values]


def _check_input(
    inputs: Sequence[GraphValue], config: DetectorConfig, where: str
) -> tuple[GraphValue, tuple[int, int] | None]:
    """The image's input and its (height, width); None where the image keeps its own."""
    fits = (
        len(inputs) == 1
        and inputs[0].type in _TYPES
        and len(inputs[0].shape) in {3, 4}
        and (inputs[0].shape[-3] == 3 or not isinstance(inputs[0].shape[-3], int))
    )
    if not fits:
        raise ConfigError(
            f"{where}: expected one image input [1, 3, height, width] or [3, height, width] of "
            f"float, float16 or uint8, the file has: {describe(inputs)}"
        )
    image = inputs[0]
    batch = image.shape[0] if len(image.shape) == 4 else 1
    if isinstance(batch, int) and batch != 1:
        raise ConfigError(
            f"{where}: expected a batch of 1, the input is {image.text}: export it again"
        )
    height, width = image.shape[-2:]
    given = config.input.canvas_px
    if isinstance(height, int) and isinstance(width, int):
        if given not in (None, (height, width)):
            raise ConfigError(
                f"{where}: the file's input is {image.text}, so input.size must be "
                f"[{height}, {width}] or left out, got {config.input.size}"
            )
        return image, (height, width)
    if given is None and config.input.resize != "none":
        raise ConfigError(
            f"{where}: the file leaves the size of its input {image.text} open: say "
            "`input: {size: [HEIGHT, WIDTH]}`"
        )
    return image, given


def _find_names(config: DetectorConfig, session: Any, where: str) -> dict[int, str]:
    """Class names by number: the configuration's, else those of the file's metadata."""
    assert not isinstance(config.classes, str)  # `load_detector_config` has read the file
    if config.classes:
        return check_class_names(config.classes, where)
    text = session.get_modelmeta().custom_metadata_map.get("names", "")
    if not 0 < len(text) <= _MOST_METADATA_LETTERS:
        return {}
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    if isinstance(names, list):
        names = dict(enumerate(names))
    is_plain = isinstance(names, dict) and all(
        isinstance(number, int) and isinstance(name, str) for number, name in names.items()
    )
    return check_class_names(names, f"{where}: metadata `names`") if is_plain else {}
