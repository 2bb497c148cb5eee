"""Boxes of objects and parts of one image, xyxy as shares 0..1 of its width and height."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ureca.datatypes import Image, Mask
from ureca.errors import WeightsError
from ureca.extras import require
from ureca.models.mllm.unires.config import ProposalConfig
from ureca.models.runtime.pretrained import require_bundle
from ureca.models.runtime.segmentation.base import EverythingSegmenter
from ureca.models.runtime.segmentation.bundled import open_mask_head

F32 = npt.NDArray[np.float32]
_COMPARED = (96, 96)
"""Size at which masks are compared."""
_INSIDE, _LARGER = 0.85, 2.0
"""A mask of which this share lies in one so many times its size is a part of it."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes f32 [N, 4] of objects and [M, 4] of parts."""

    objects: F32
    parts: F32


class Proposer(Protocol):
    """Proposes boxes."""

    def propose(self, image: Image) -> Proposals:
        """Return the boxes of an image u8 [H, W, 3] RGB."""


class GridProposer:
    """The whole picture and windows of a half and a third of it; parts are windows of a quarter."""

    def __init__(self, config: ProposalConfig) -> None:
        boxes = [_make_windows(1), _make_windows(2), _make_windows(3)]
        self._found = Proposals(
            np.concatenate(boxes)[: config.max_objects], _make_windows(4)[: config.max_parts]
        )

    def propose(self, image: Image) -> Proposals:
        """See `Proposer`."""
        return self._found


class MaskProposer:
    """Boxes of the masks that a segmenter finds by itself."""

    def __init__(self, segmenter: EverythingSegmenter, config: ProposalConfig) -> None:
        self._segmenter, self._config = segmenter, config

    def propose(self, image: Image) -> Proposals:
        """See `Proposer`."""
        found = self._segmenter.everything(self._segmenter.encode(image))
        masks = [mask for one in found if (mask := one.mask(_COMPARED)).any()]
        flags = find_parts(masks)
        boxes = np.array([_find_box(mask) for mask in masks], np.float32).reshape(-1, 4)
        return Proposals(
            boxes[~flags][: self._config.max_objects], boxes[flags][: self._config.max_parts]
        )


class DetectorProposer:
    """An open-vocabulary detector of `transformers`, asked once for objects and once for parts."""

    def __init__(self, model: Any, processor: Any, config: ProposalConfig) -> None:
        self._model, self._processor, self._config = model, processor, config

    def propose(self, image: Image) -> Proposals:
        """See `Proposer`."""
        config = self._config
        return Proposals(
            self._detect(image, config.object_words, config.max_objects),
            self._detect(image, config.part_words, config.max_parts),
        )

    @torch.inference_mode()
    def _detect(self, image: Image, words: Sequence[str], most: int) -> F32:
        if not words:
            return np.zeros((0, 4), np.float32)
        given = self._processor(images=image, text=[list(words)], return_tensors="pt")
        output = self._model(**given.to(self._model.device))
        scores = output.logits[0].sigmoid().amax(-1).float().cpu()
        boxes = _to_corners(output.pred_boxes[0].float().cpu())
        order = torch.argsort(-scores, stable=True)[:most]
        sure = order[scores[order] >= self._config.least_score]
        return np.asarray(boxes[sure].clamp(0, 1).numpy(), np.float32)


def open_proposer(config: ProposalConfig, *, root: Path = Path()) -> Proposer:
    """Open what `config` names; its folder is relative to `root`. Raises `WeightsError`."""
    if config.kind == "grid":
        return GridProposer(config)
    folder = root / config.folder if config.folder else require_bundle()
    if config.kind == "mask-head":
        return MaskProposer(open_mask_head(folder), config)
    package = require("transformers", extra="mllm")
    given = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = package.AutoModelForZeroShotObjectDetection.from_pretrained(
            folder, use_safetensors=True, **given
        )
        processor = package.AutoProcessor.from_pretrained(folder, **given)
    except (OSError, ValueError, ImportError) as error:
        raise WeightsError(f"{folder} is no open-vocabulary detector: {error!s:.300}") from error
    return DetectorProposer(model.eval(), processor, config)


def find_parts(masks: Sequence[Mask]) -> npt.NDArray[np.bool_]:
    """Return which masks bool [h, w] are parts: they lie in another one of twice their size."""
    if not masks:
        return np.zeros(0, np.bool_)
    flat = np.stack(masks).reshape(len(masks), -1).astype(np.float32)
    areas = flat.sum(1)
    inside = (flat @ flat.T) / areas[:, None]
    larger = areas[None] >= _LARGER * areas[:, None]
    return np.asarray((larger & (inside >= _INSIDE)).any(1))


def _make_windows(count: int) -> F32:
    """`count` x `count` windows that overlap by a quarter of their side."""
    side = 1 / (1 + 0.75 * (count - 1))
    starts = np.linspace(0, 1 - side, count)
    boxes = [(x, y, x + side, y + side) for y in starts for x in starts]
    return np.array(boxes, np.float32)


def _find_box(mask: Mask) -> tuple[float, float, float, float]:
    height, width = mask.shape
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height


def _to_corners(boxes: Tensor) -> Tensor:
    """Centre and size -> corners."""
    half = boxes[:, 2:] / 2
    return torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
