"""SAM 3 and CLIPSeg: words in, masks out. They find what their list of words names, once an image;
prompts choose among that, as with detectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ureca.datatypes import Image
from ureca.errors import EngineError
from ureca.models.mllm.segmentation.settings import TransformersSegmenterConfig
from ureca.models.runtime.segmentation.base import F32, MaskPrediction, SegmenterPrompt
from ureca.models.runtime.segmentation.detectors.config import DetectorInput
from ureca.models.runtime.segmentation.detectors.detected_image import (
    DetectedImage,
    answer_prompt,
    compute_image_features,
)
from ureca.models.runtime.segmentation.detectors.layouts import OUTSIDE
from ureca.models.runtime.segmentation.detectors.placement import make_network_input, place_image

_SAM3_TOKENS = 32
_LEAST_CELLS = 4
"""Smaller parts of a CLIPSeg map are noise."""


class ConceptSegmenter(ABC):
    """A `Segmenter` that finds `settings.classes`. The subclasses run a network."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        image_input: DetectorInput,
        settings: TransformersSegmenterConfig,
    ) -> None:
        self.name, self.class_names = name, settings.classes
        self._settings = settings
        self._model, self._input, self._is_stopped = model, image_input, False
        with torch.inference_mode():
            self._words = [self._encode_word(tokenizer, word) for word in settings.classes]

    @torch.inference_mode()
    def encode(self, image: Image) -> DetectedImage:
        """See `Segmenter`: finds all words."""
        size = image.shape[0], image.shape[1]
        where = place_image(size, self._input, self._input.canvas_px)
        pixels = torch.from_numpy(make_network_input(image, self._input, where))[None]
        maps = self._see(pixels.to(self._model.device))
        found: list[MaskPrediction] = []
        for word, encoded_word in zip(self._settings.classes, self._words, strict=True):
            if self._is_stopped:
                raise EngineError(f"{self.name} was stopped")
            logits, scores = self._find(maps, encoded_word)
            if not np.isfinite(logits).all() or not np.isfinite(scores).all():
                raise EngineError(f"{self.name} answered with values that are not finite")
            found += self._make_predictions(where.crop_to_image(logits), scores, word)
        found.sort(key=lambda one: -one.score)
        kept = tuple(found[: self._settings.max_masks])
        boxes = np.array([_find_box(one, size) for one in kept], np.float32).reshape(-1, 4)
        return DetectedImage(size, kept, boxes, compute_image_features(image))

    def features(self, encoded: DetectedImage) -> F32:
        """See `Segmenter`: colours and edges (`compute_image_features`)."""
        return encoded.features

    def segment(
        self, encoded: DetectedImage, prompts: Sequence[SegmenterPrompt]
    ) -> list[tuple[MaskPrediction, ...]]:
        """See `Segmenter` and `answer_prompt`."""
        return [answer_prompt(encoded, prompt) for prompt in prompts]

    def everything(self, encoded: DetectedImage) -> list[MaskPrediction]:
        """All that was found, best first, with its word as the label."""
        return list(encoded.predictions)

    def stop(self) -> None:
        """See `Segmenter`: the search ends at the next word."""
        self._is_stopped = True

    @abstractmethod
    def _encode_word(self, tokenizer: Any, word: str) -> Any:
        """What `_find` needs of a word."""

    @abstractmethod
    def _see(self, pixels: Tensor) -> Any:
        """What `_find` needs of an image [1, 3, H, W]."""

    @abstractmethod
    def _find(self, maps: Any, word: Any) -> tuple[F32, F32]:
        """Logits f32 [N, h, w] over the canvas, and scores f32 [N] 0..1, of one word."""

    def _make_predictions(self, logits: F32, scores: F32, word: str) -> list[MaskPrediction]:
        threshold = self._settings.mask_threshold
        shift = np.float32(np.log(threshold / (1 - threshold)))
        return [
            MaskPrediction(one - shift, float(score), word)
            for one, score in zip(logits, scores, strict=True)
            if (one > shift).any()
        ]


class Sam3Concepts(ConceptSegmenter):
    """`Sam3Model` and `Sam3LiteTextModel`: every instance of a word. The score is that of the
    instance times that of the word's presence in the image.
    """

    def _encode_word(self, tokenizer: Any, word: str) -> Any:
        tokens = tokenizer(
            word,
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=_SAM3_TOKENS,
        ).to(self._model.device)
        mask = tokens["attention_mask"]
        text = self._model.get_text_features(input_ids=tokens["input_ids"], attention_mask=mask)
        return text, mask

    def _see(self, pixels: Tensor) -> Any:
        return self._model.get_vision_features(pixel_values=pixels)

    def _find(self, maps: Any, word: Any) -> tuple[F32, F32]:
        text, mask = word
        output = self._model(vision_embeds=maps, text_embeds=text, attention_mask=mask)
        scores = (output.pred_logits[0].sigmoid() * output.presence_logits[0].sigmoid()).float()
        rows = torch.nonzero(scores >= self._settings.score_threshold)[:, 0]
        rows = rows[torch.argsort(-scores[rows], stable=True)][: self._settings.max_masks]
        logits = output.pred_masks[0][rows].float().cpu().numpy()
        return np.asarray(logits, np.float32), np.asarray(scores[rows].cpu().numpy(), np.float32)


class ClipSegConcepts(ConceptSegmenter):
    """`CLIPSegForImageSegmentation`: one map per word; each connected part of it is one mask, and
    its score is the mean probability inside. The network runs once per word.
    """

    def _encode_word(self, tokenizer: Any, word: str) -> Any:
        tokens = tokenizer(word, return_tensors="pt", truncation=True).to(self._model.device)
        return self._model.get_conditional_embeddings(
            batch_size=1, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )

    def _see(self, pixels: Tensor) -> Any:
        return pixels

    def _find(self, maps: Any, word: Any) -> tuple[F32, F32]:
        output = self._model(pixel_values=maps, conditional_embeddings=word)
        logits = np.asarray(output.logits.float().cpu().numpy(), np.float32)
        return self._split(logits.reshape(logits.shape[-2:]))

    def _split(self, logits: F32) -> tuple[F32, F32]:
        probabilities = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        inside = probabilities > self._settings.mask_threshold
        count, parts, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
        areas = stats[:, cv2.CC_STAT_AREA]
        numbers = [n for n in range(1, count) if areas[n] >= _LEAST_CELLS]
        largest = sorted(numbers, key=lambda n: -areas[n])[: self._settings.max_masks]
        scores = np.array([probabilities[parts == n].mean() for n in largest], np.float32)
        rows = np.flatnonzero(scores >= self._settings.score_threshold)
        masks = [np.where(inside & (parts != largest[row]), OUTSIDE, logits) for row in rows]
        shape = (len(rows), *logits.shape)
        return np.array(masks, np.float32).reshape(shape), scores[rows]


def _find_box(one: MaskPrediction, size: tuple[int, int]) -> tuple[float, float, float, float]:
    inside = one.logits > 0
    down, right = size[0] / inside.shape[0], size[1] / inside.shape[1]
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return xs[0] * right, ys[0] * down, (xs[-1] + 1) * right, (ys[-1] + 1) * down
