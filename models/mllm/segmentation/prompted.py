"""SAM 2, EdgeTAM and SAM 3's tracker: one image encoder, and a decoder that is asked by points,
boxes and masks. Their classes in `transformers` have one interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ureca.datatypes import Image
from ureca.errors import EngineError
from ureca.models.runtime.segmentation.base import F32, MaskPrediction, SegmenterPrompt
from ureca.models.runtime.segmentation.detectors.config import DetectorInput
from ureca.models.runtime.segmentation.detectors.placement import make_network_input, place_image

_BATCH = 16
"""Prompts decoded at once."""
_MASK_LOGIT = 10.0


@dataclass(frozen=True, slots=True)
class PromptedImage:
    """Maps of the encoder, and the image's (height, width)."""

    maps: list[Tensor]
    size: tuple[int, int]


class PromptedSegmenter:
    """A `Segmenter` over a `Sam2Model`, `EdgeTamModel` or `Sam3TrackerModel`."""

    def __init__(self, model: Any, name: str, image_input: DetectorInput) -> None:
        self.name = name
        self._model, self._input, self._is_stopped = model, image_input, False
        assert image_input.canvas_px is not None
        self._side_px = image_input.canvas_px[0]

    @torch.inference_mode()
    def encode(self, image: Image) -> PromptedImage:
        """See `Segmenter`."""
        self._check_running()
        size = image.shape[0], image.shape[1]
        where = place_image(size, self._input, self._input.canvas_px)
        pixels = torch.from_numpy(make_network_input(image, self._input, where))[None]
        return PromptedImage(self._model.get_image_embeddings(pixels.to(self._model.device)), size)

    def features(self, encoded: PromptedImage) -> F32:
        """See `Segmenter`: the encoder's coarsest map."""
        return np.asarray(encoded.maps[-1][0].float().cpu().numpy(), np.float32)

    def segment(
        self, encoded: PromptedImage, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """See `Segmenter`; three predictions for each prompt. Raises `EngineError` when the network
        gives values that are not finite.
        """
        found: dict[int, tuple[MaskPrediction, ...]] = {}
        for rows in _group(prompts):
            self._check_running()
            answers = self._decode(encoded, [prompts[row] for row in rows])
            found.update(zip(rows, answers, strict=True))
        return [found[row] for row in range(len(prompts))]

    def stop(self) -> None:
        """See `Segmenter`: the next batch of prompts is refused."""
        self._is_stopped = True

    def _check_running(self) -> None:
        if self._is_stopped:
            raise EngineError(f"{self.name} was stopped")

    @torch.inference_mode()
    def _decode(
        self, encoded: PromptedImage, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """Answers to the prompts of one group."""
        scale = self._side_px / encoded.size[1], self._side_px / encoded.size[0]
        given: dict[str, Tensor] = {}
        rows = [_list_points(prompt, scale) for prompt in prompts]
        if rows[0]:
            points = torch.tensor(rows)[None]
            given["input_points"] = points[..., :2]
            given["input_labels"] = points[..., 2].to(torch.int32)
        if prompts[0].box_xyxy_px is not None:
            boxes = np.array([prompt.box_xyxy_px for prompt in prompts], np.float32)
            given["input_boxes"] = torch.from_numpy(boxes * np.array(scale * 2, np.float32))[None]
        if prompts[0].soft is not None:
            given["input_masks"] = self._make_earlier_mask(prompts[0].soft)
        on_device = {key: value.to(self._model.device) for key, value in given.items()}
        output = self._model(image_embeddings=encoded.maps, multimask_output=True, **on_device)
        logits = output.pred_masks[0].float().cpu().numpy()
        scores = output.iou_scores[0].float().cpu().numpy()
        if not np.isfinite(logits).all() or not np.isfinite(scores).all():
            raise EngineError(f"{self.name} answered with values that are not finite")
        return [
            tuple(
                MaskPrediction(one, float(np.clip(score, 0, 1)))
                for one, score in zip(*row, strict=True)
            )
            for row in zip(logits, scores, strict=True)
        ]

    def _make_earlier_mask(self, soft: F32) -> Tensor:
        height, width = self._model.prompt_encoder.mask_input_size
        small = cv2.resize(soft, (width, height), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(np.asarray((2 * small - 1) * _MASK_LOGIT, np.float32))[None, None]


def _group(prompts: Sequence[SegmenterPrompt]) -> list[list[int]]:
    """Rows that can be decoded together: with as many points, and a box or none. Filling up a row
    with points that are ignored would change its mask, because the decoder attends to them. A mask
    goes alone, because the decoder takes one for the whole batch.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        points = len(prompt.points_xy_px) + len(prompt.not_points_xy_px)
        alone = row if prompt.soft is not None else None
        groups.setdefault((points, prompt.box_xyxy_px is None, alone), []).append(row)
    return [
        rows[begin : begin + _BATCH]
        for rows in groups.values()
        for begin in range(0, len(rows), _BATCH)
    ]


def _list_points(
    prompt: SegmenterPrompt, scale: tuple[float, float]
) -> list[tuple[float, float, int]]:
    labelled = [(point, 1) for point in prompt.points_xy_px]
    labelled += [(point, 0) for point in prompt.not_points_xy_px]
    return [(x * scale[0], y * scale[1], label) for (x, y), label in labelled]
