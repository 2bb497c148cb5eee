"""SAM 2 (Ravi et al. 2024) for single images in ONNX Runtime: image encoder and mask decoder.

The graphs are those of `ureca weights get sam2-hiera-tiny`. Images are stretched to a square, as in
SAM 2. The memory of SAM 2's video part is not included: the tracker handles time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ureca.datatypes import Image
from ureca.errors import BundleError, EngineError, WeightsError
from ureca.models.runtime.ort import make_run_options, open_session
from ureca.models.runtime.segmentation.base import F32, MaskPrediction, SegmenterPrompt

ENCODER = "sam2_hiera_tiny_encoder.with_runtime_opt.ort"
DECODER = "sam2_hiera_tiny_decoder_pr1.onnx"
_SIDE_PX, _MASK_SIDE_PX = 1024, 256
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_MAPS = ("image_embed", "high_res_feats_0", "high_res_feats_1")
_OFF, _ON, _BOX_FROM, _BOX_TO, _PAD = 0, 1, 2, 3, -1
_MASK_LOGIT = 10.0
"""SAM 2 takes earlier masks as logits between minus and plus this value."""
_BATCH = 16
"""Prompts decoded at once. The decoder's working memory grows with them."""


@dataclass(frozen=True, slots=True)
class Sam2Maps:
    """Output of the encoder: its three maps f32, and the image's (height, width)."""

    maps: Mapping[str, F32]
    size: tuple[int, int]


class Sam2:
    """A `Segmenter`. `folder` holds the two graphs. Raises `WeightsError` when it does not."""

    name = "sam2-hiera-tiny"

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self._encoder = _open(folder / ENCODER, threads)
        self._decoder = _open(folder / DECODER, threads)
        self._run = make_run_options()

    def encode(self, image: Image) -> Sam2Maps:
        """See `Segmenter`."""
        square = cv2.resize(image, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_LINEAR)
        pixels = (np.asarray(square, np.float32) / 255 - _MEAN) / _STD
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        found = self._encoder.run(_MAPS, {"image": batch}, self._run)
        return Sam2Maps(dict(zip(_MAPS, found, strict=True)), (image.shape[0], image.shape[1]))

    def features(self, encoded: Sam2Maps) -> F32:
        """See `Segmenter`: f32 [256, 64, 64]."""
        return np.asarray(encoded.maps["image_embed"][0], np.float32)

    def segment(
        self, encoded: Sam2Maps, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """See `Segmenter`; three predictions for each prompt. Raises `EngineError` when the graph
        gives values that are not finite.
        """
        found: dict[int, tuple[MaskPrediction, ...]] = {}
        for has_soft in (
            False,
            True,
        ):  # one input of the graph says whether the whole batch has masks
            alike = [n for n, prompt in enumerate(prompts) if (prompt.soft is not None) == has_soft]
            for begin in range(0, len(alike), _BATCH):
                batch = alike[begin : begin + _BATCH]
                cuts = self._decode(encoded, [prompts[n] for n in batch])
                found.update(zip(batch, cuts, strict=True))
        return [found[n] for n in range(len(prompts))]

    def stop(self) -> None:
        """See `Segmenter`: ONNX Runtime ends a run at its next operator."""
        self._run.terminate = True

    def _decode(
        self, encoded: Sam2Maps, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        rows = [_make_points(prompt, encoded.size) for prompt in prompts]
        longest = max(len(row) for row in rows)
        padded = np.array([row + [(0.0, 0.0, _PAD)] * (longest - len(row)) for row in rows])
        feeds = {
            **encoded.maps,
            "point_coords": padded[..., :2].astype(np.float32),
            "point_labels": padded[..., 2].astype(np.float32),
            "mask_input": np.stack([_make_earlier_mask(prompt.soft) for prompt in prompts])[
                :, None
            ],
            "has_mask_input": np.array([float(prompts[0].soft is not None)], np.float32),
        }
        logits, scores = self._decoder.run(("masks", "iou_predictions"), feeds, self._run)
        if not np.isfinite(logits).all() or not np.isfinite(scores).all():
            raise EngineError(f"{self.name} answered with values that are not finite")
        return [
            tuple(
                MaskPrediction(one, float(np.clip(score, 0, 1)))
                for one, score in zip(*row, strict=True)
            )
            for row in zip(logits, scores, strict=True)
        ]


def _make_points(prompt: SegmenterPrompt, size: tuple[int, int]) -> list[tuple[float, float, int]]:
    """The prompt's points and box corners in the square's pixels, each with its label."""
    labelled = [(point, _ON) for point in prompt.points_xy_px]
    labelled += [(point, _OFF) for point in prompt.not_points_xy_px]
    if prompt.box_xyxy_px is not None:
        x0, y0, x1, y1 = prompt.box_xyxy_px
        labelled += [((x0, y0), _BOX_FROM), ((x1, y1), _BOX_TO)]
    height, width = size
    found = [(x * _SIDE_PX / width, y * _SIDE_PX / height, label) for (x, y), label in labelled]
    if prompt.box_xyxy_px is None:
        found.append((0.0, 0.0, _PAD))  # SAM was trained with a padding point if there is no box
    return found


def _make_earlier_mask(soft: F32 | None) -> F32:
    side = _MASK_SIDE_PX
    if soft is None:
        return np.zeros((side, side), np.float32)
    small = cv2.resize(soft, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray((2 * small - 1) * _MASK_LOGIT, np.float32)


def _open(path: Path, threads: int) -> Any:  # onnxruntime ships no type information
    if not path.is_file():
        raise WeightsError(f"no {path}: bring it with `ureca weights get {Sam2.name}`")
    try:
        return open_session(path, threads=threads)
    except BundleError as error:
        raise WeightsError(str(error)) from error
